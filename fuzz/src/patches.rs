//! The four kinds of patches: a line that names a kind, one with an object, and the patch; of server-side apply
//! two configurations.

use serde_json::Value;
use stead_api::apply::{self, Of, Part, Writer};
use stead_api::patch::{self, PatchError};
use stead_api::registry::Kind;
use stead_api::{json, meta, schema};

use crate::{kind, split_line};

/// A JSON patch.
pub fn json_patch(input: &[u8]) {
    patched(input, |_, object, text| patch::json_patch(object, text));
}

/// A merge patch.
pub fn merge_patch(input: &[u8]) {
    patched(input, |_, object, text| {
        let once = patch::merge_patch(object, text)?;
        assert_eq!(patch::merge_patch(&once, text)?, once, "the second time");
        Ok(once)
    });
}

/// A strategic merge patch.
pub fn strategic(input: &[u8]) {
    patched(input, |kind, object, text| {
        let read = patch::parse_object(text)?;
        patch::strategic_merge(schema::builtin(), kind.type_id(), object, read)
    });
}

/// Two managers apply.
pub fn apply(input: &[u8]) {
    let (line, rest) = split_line(input);
    let (first, second) = split_line(rest);
    let kind = kind(line);
    let read = |text: &[u8]| {
        serde_json::from_slice::<Value>(text)
            .ok()
            .filter(Value::is_object)
    };
    let (Some(first), Some(second)) = (read(first), read(second)) else {
        return;
    };
    let of = Of {
        ty: kind.type_id(),
        part: if kind.has_status() {
            Part::Main
        } else {
            Part::Whole
        },
    };
    let (one, two) = (writer("one"), writer("two"));
    let applied = |live: &Value, configuration: &Value, writer: &Writer, force: bool| {
        let made = apply::applied(of, live, configuration, writer, force).ok()?;
        let decoded = schema::decode_value(schema::builtin(), of.ty, made).ok()?;
        check_notes(&decoded.value);
        Some(decoded.value)
    };
    // Zeros and nulls that mean nothing are noted when they are applied, and then are not there.
    let Ok(first) = schema::decode_value(schema::builtin(), of.ty, first) else {
        return;
    };
    let first = first.value;
    let Some(live) = applied(&Value::Null, &first, &one, false) else {
        return;
    };
    // Whoever has set nothing is not noted, so that the server's own fields are, the second time.
    let is_noted = apply::is_tracked(&live);
    assert!(
        !is_noted || applied(&live, &first, &one, false).as_ref() == Some(&live),
        "the second time is another: {live}"
    );
    let _ = applied(&live, &second, &two, false);
    let Some(forced) = applied(&live, &second, &two, true) else {
        return;
    };
    let abandoned =
        serde_json::json!({"apiVersion": second["apiVersion"], "kind": second["kind"], "metadata": {}});
    let _ = applied(&forced, &abandoned, &two, false);
    let mut updated = live.clone();
    apply::updated(of, &forced, &mut updated, &writer("three"));
    check_notes(&updated);
}

fn writer(manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        api_version: "v1".to_owned(),
        subresource: String::new(),
        now: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn check_notes(object: &Value) {
    if let Some(entries) = object["metadata"]["managedFields"].as_array() {
        assert!(
            apply::are_notes(entries),
            "notes that cannot be read: {entries:?}"
        );
    }
}

/// Patches an object that is of its kind, and reads what comes of it as the kind again.
fn patched(input: &[u8], patch: impl Fn(&'static Kind, &Value, &[u8]) -> Result<Value, PatchError>) {
    let (line, rest) = split_line(input);
    let (object, text) = split_line(rest);
    let kind = kind(line);
    let Ok(decoded) = schema::decode_bytes(schema::builtin(), kind.type_id(), object) else {
        return;
    };
    let Ok(patched) = patch(kind, &decoded.value, text) else {
        return;
    };
    if let Ok(decoded) = schema::decode_value(schema::builtin(), kind.type_id(), patched) {
        assert!(
            json::depth(&decoded.value) <= json::MAX_DEPTH,
            "too deep to be stored"
        );
        let _ = meta::typed(&decoded.value);
    }
}
