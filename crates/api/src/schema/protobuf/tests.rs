use serde_json::{Value, json};

use super::*;
use crate::schema::{Type, TypeId, builtin, decode_value};

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, content.len() as u8];
    bytes.extend(content);
    bytes
}

fn config_map() -> TypeId {
    builtin()
        .find("io.k8s.api.core.v1.ConfigMap")
        .expect("ConfigMap is in the table")
}

#[test]
fn an_enveloped_config_map_becomes_its_json() {
    let metadata = field(1, &field(1, b"settings"));
    let entry = [field(1, b"colour"), field(2, b"green")].concat();
    let message = [metadata, field(2, &entry)].concat();
    let type_meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    let body = [b"k8s\0".to_vec(), field(1, &type_meta), field(2, &message)].concat();
    let envelope = open_envelope(&body).expect("an envelope");
    assert_eq!(
        (envelope.api_version.as_str(), envelope.kind.as_str()),
        ("v1", "ConfigMap")
    );
    assert_eq!(
        from_protobuf(builtin(), config_map(), envelope.raw),
        Ok(json!({"metadata": {"name": "settings"}, "data": {"colour": "green"}}))
    );
}

#[test]
fn inline_messages_are_fields_of_their_owner() {
    let schema = builtin();
    let probe = schema.find("io.k8s.api.core.v1.Probe").expect("Probe");
    let port = field(2, &[0x08, 0, 0x10, 80]);
    let handler = field(2, &port);
    let message = [field(1, &handler), vec![0x20, 7]].concat();
    assert_eq!(
        from_protobuf(schema, probe, &message),
        Ok(json!({"httpGet": {"port": 80}, "periodSeconds": 7}))
    );
}

#[test]
fn broken_messages_are_refused() {
    for (message, error) in [
        (&[0x0a, 5, b'x'][..], ProtobufError::Truncated),
        (&[0x0a], ProtobufError::Truncated),
        (&[0xff; 11], ProtobufError::Overflow),
        (
            &[0x08, 1],
            ProtobufError::WireType {
                field: "metadata".into(),
                wire: 0,
            },
        ),
        (
            &[0x0b],
            ProtobufError::WireType {
                field: "1".into(),
                wire: 3,
            },
        ),
    ] {
        assert_eq!(
            from_protobuf(builtin(), config_map(), message),
            Err(error),
            "{message:?}"
        );
    }
    assert_eq!(open_envelope(b"{}"), Err(EnvelopeError::NoMagic));
}

/// What a value of a type is in protobuf and back.
fn there_and_back(ty: TypeId, value: &Value) -> Value {
    let message = to_protobuf(builtin(), ty, value).unwrap_or_else(|error| panic!("{error}: {value}"));
    let read = from_protobuf(builtin(), ty, &message).expect("what was written can be read");
    decode_value(builtin(), ty, read)
        .expect("what was read fits")
        .value
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let mut random = Random(0x5eed);
    for kind in crate::registry::builtin().kinds() {
        let ty = kind.type_id();
        for _ in 0..20 {
            let value = random.object(ty, 0);
            let decoded = decode_value(builtin(), ty, value).expect("a value of the type fits");
            assert_eq!(decoded.strict, [""; 0], "{}", kind.kind);
            assert_eq!(there_and_back(ty, &decoded.value), decoded.value, "{}", kind.kind);
        }
    }
}

/// Values from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn object(&mut self, ty: TypeId, depth: usize) -> Value {
        let mut object = serde_json::Map::new();
        for field in builtin().get(ty).fields() {
            // Deep down there is less and less, or it would never end.
            let kind_of_itself = matches!(field.name, "kind" | "apiVersion") && field.number == 0;
            // Protobuf always has these, so that one which is not there comes back as its zero value.
            let always = !field.pointer && matches!(field.ty, Type::IntOrString | Type::Quantity);
            let some = self.below(3 + depth as u64) < 2 && depth < 12;
            if !kind_of_itself && (some || always) {
                object.insert(field.name.to_owned(), self.value(&field.ty, depth));
            }
        }
        Value::Object(object)
    }

    fn value(&mut self, ty: &Type, depth: usize) -> Value {
        let pick = self.below(4) as usize;
        match ty {
            Type::String(_) => json!(["", "a", "ünï", "with \"quotes\"\n"][pick]),
            Type::Int32(_) => json!([0, -1, i32::MAX, i32::MIN][pick]),
            Type::Int64(_) => json!([0, -1, i64::MAX, i64::MIN][pick]),
            Type::Float64 => json!([0.5, -1.25, 1e300, 3.0][pick]),
            Type::Bool => json!(pick.is_multiple_of(2)),
            Type::Bytes => json!(["", "AA==", "AAEC", "/////w=="][pick]),
            Type::Quantity => json!(["0", "100m", "1Gi", "-3"][pick]),
            Type::IntOrString => [json!(0), json!(-7), json!("http"), json!("")][pick].clone(),
            Type::Time => {
                json!(
                    [
                        "1970-01-01T00:00:00Z",
                        "2024-02-29T23:59:59Z",
                        "1969-12-31T23:59:59Z",
                        "9999-12-30T00:00:00Z"
                    ][pick]
                )
            }
            Type::MicroTime => {
                json!(
                    [
                        "1970-01-01T00:00:00.000000Z",
                        "2024-02-29T23:59:59.999999Z",
                        "1969-12-31T23:59:59.000001Z",
                        "2001-01-01T00:00:00.100000Z"
                    ][pick]
                )
            }
            Type::Duration => json!(["0s", "1m30s", "-1.5h", "250ms"][pick]),
            Type::FieldsV1 | Type::Raw | Type::Json => json!({"f:a": {"f:b": {}}, "n": [pick, null, "x"]}),
            Type::Struct(id) => self.object(*id, depth + 1),
            Type::List(element) => (0..=self.below(2))
                .map(|_| self.value(element, depth + 1))
                .collect(),
            Type::Map(_, element) => Value::Object(
                ["b", "", "a.example/c"][pick % 3..]
                    .iter()
                    .map(|key| ((*key).to_owned(), self.value(element, depth + 1)))
                    .collect(),
            ),
        }
    }
}

#[test]
fn messages_are_those_of_go() {
    let meta = "\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00";
    for (name, object, expected) in [
        (
            "io.k8s.api.core.v1.ConfigMap",
            json!({
                "metadata": {"name": "a", "creationTimestamp": "2023-11-14T22:13:20Z"},
                "data": {"z": "", "b": "1"},
            }),
            &b"\n\x19\n\x01a\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x08\x08\x80\xe2\xcf\xaa\x06\x10\x00\
              \x12\x06\n\x01b\x12\x011\x12\x05\n\x01z\x12\x00"[..],
        ),
        (
            "io.k8s.api.coordination.v1.Lease",
            json!({"spec": {"renewTime": "2023-11-14T22:13:20.123456Z"}}),
            &[b"\n\x10", meta.as_bytes(), b"\x12\r\"\x0b\x08\x80\xe2\xcf\xaa\x06\x10\x80\x94\xef:"].concat(),
        ),
        (
            "io.k8s.api.policy.v1.PodDisruptionBudget",
            json!({"spec": {"minAvailable": -1, "maxUnavailable": "25%"}}),
            &[
                b"\n\x10",
                meta.as_bytes(),
                b"\x12\x1c\n\x0f\x08\x00\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x1a\x00\
                  \x1a\t\x08\x01\x10\x00\x1a\x0325%\x1a\n\x08\x00\x18\x00 \x00(\x000\x00",
            ]
            .concat(),
        ),
        (
            "io.k8s.api.authorization.v1.SubjectAccessReview",
            json!({"spec": {"extra": {"k": ["a", "b"]}}}),
            &[
                b"\n\x10",
                meta.as_bytes(),
                b"\x12\x11\x1a\x00*\x0b\n\x01k\x12\x06\n\x01a\n\x01b2\x00\x1a\x08\x08\x00\x12\x00\x1a\x00 \x00",
            ]
            .concat(),
        ),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList",
            json!({"groupVersion": "v1", "resources": [{"name": "pods", "verbs": ["get"]}]}),
            b"\n\x02v1\x12\x19\n\x04pods\x10\x00\x1a\x00\"\x05\n\x03get2\x00B\x00J\x00R\x00",
        ),
    ] {
        let ty = builtin().find(name).unwrap_or_else(|| panic!("{name} is in the table"));
        let message = to_protobuf(builtin(), ty, &object).expect("the object is of the type");
        assert_eq!(message.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{name}");
    }
}

#[test]
fn lists_and_events_stand_in_envelopes_and_frames() {
    let list_meta = builtin()
        .find("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
        .expect("ListMeta is in the table");
    let metadata = json!({"resourceVersion": "7", "remainingItemCount": 3});
    let items = [json!({"metadata": {"name": "a", "creationTimestamp": "2023-11-14T22:13:20Z"}})];
    let sealed = seal_list(
        builtin(),
        ("v1", "ConfigMapList"),
        (list_meta, &metadata),
        config_map(),
        items.into_iter(),
    );
    assert_eq!(
        sealed.expect("the items are of the type").escape_ascii().to_string(),
        b"k8s\0\n\x13\n\x02v1\x12\rConfigMapList\x12(\n\t\n\x00\x12\x017\x1a\x00 \x03\x12\x1b\
          \n\x19\n\x01a\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x08\x08\x80\xe2\xcf\xaa\x06\x10\x00\x1a\x00\"\x00"
            .escape_ascii()
            .to_string()
    );
    assert_eq!(
        watch_frame("ADDED", b"k8s\0\n\x0f\n\x02")
            .escape_ascii()
            .to_string(),
        b"\x00\x00\x00\x13\n\x05ADDED\x12\n\n\x08k8s\0\n\x0f\n\x02"
            .escape_ascii()
            .to_string()
    );
}

#[test]
fn what_does_not_fit_is_named() {
    for (object, field) in [
        (json!({"data": {"a": 1}}), "data"),
        (json!({"data": []}), "data"),
        (json!({"binaryData": {"a": "?"}}), "binaryData"),
        (
            json!({"metadata": {"creationTimestamp": "yesterday"}}),
            "creationTimestamp",
        ),
        (json!({"metadata": 1}), "metadata"),
        (json!({"metadata": {"finalizers": "a"}}), "finalizers"),
    ] {
        assert_eq!(
            to_protobuf(builtin(), config_map(), &object),
            Err(UnfitError { field }),
            "{object}"
        );
    }
}

/// The samples of every kind that are published with Kubernetes' Go types (`testdata/HEAD` of the
/// module `k8s.io/api`) are too many to keep; where they are, `STEAD_API_TESTDATA` says.
#[test]
fn published_samples_are_written_and_read_to_the_byte() {
    let Some(folder) = std::env::var_os("STEAD_API_TESTDATA") else {
        return;
    };
    let mut compared = 0;
    for kind in crate::registry::builtin().kinds() {
        let group = if kind.group.is_empty() { "core" } else { kind.group };
        let file = format!("{group}.{}.{}", kind.version, kind.kind);
        let sample = std::path::Path::new(&folder).join(file);
        let Ok(json) = std::fs::read(sample.with_extension(format!("{}.json", kind.kind))) else {
            continue;
        };
        let bytes = std::fs::read(sample.with_extension(format!("{}.pb", kind.kind)))
            .expect("each sample is there in both forms");
        let decoded = crate::schema::decode_bytes(builtin(), kind.type_id(), &json).expect("a sample fits");
        let mut value = decoded.value;
        let of = (kind.api_version(), kind.kind);
        let sealed = seal(builtin(), kind.type_id(), (&of.0, of.1), &value).expect("a sample can be written");
        assert!(
            sealed == bytes,
            "{}: {}",
            kind.kind,
            first_difference(&sealed, &bytes)
        );
        let envelope = open_envelope(&bytes).expect("a sample is in an envelope");
        let read = from_protobuf(builtin(), kind.type_id(), envelope.raw).expect("a sample can be read");
        let read = decode_value(builtin(), kind.type_id(), read).expect("what was read fits");
        for field in ["kind", "apiVersion"] {
            value.as_object_mut().expect("an object").remove(field);
        }
        assert_eq!(read.value, value, "{}", kind.kind);
        compared += 1;
    }
    assert!(compared > 30, "{compared} samples are there");
}

fn first_difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[at.saturating_sub(40).min(bytes.len())..(at + 20).min(bytes.len())])
            .into_owned()
    };
    format!("at {at}: {:?} for {:?}", around(ours), around(theirs))
}
