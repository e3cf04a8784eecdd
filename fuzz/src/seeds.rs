//! Inputs to begin with: the recorded cases of `tests/golden`, read when the targets run, and a few by hand.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use stead_api::registry::{self, Kind};

/// The recorded cases, from the folder of this package.
const GOLDEN: &str = "../tests/golden";
const AREAS: [&str; 4] = ["admission", "api", "own", "patch"];

/// Objects of all kinds: those that were sent or answered, and an empty one of each.
pub fn objects() -> Vec<Vec<u8>> {
    let recorded = recorded_objects();
    let empty = registry::builtin().kinds().map(|kind| (kind, empty(kind)));
    recorded
        .into_iter()
        .chain(empty)
        .map(|(kind, object)| lines(kind, &[&object]))
        .collect()
}

/// A few messages: metadata and what is in it, in an envelope and without.
pub fn protobuf() -> Vec<Vec<u8>> {
    let message = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let metadata = [
        message(1, b"web"),
        message(11, &[message(1, b"app"), message(2, b"web")].concat()),
    ]
    .concat();
    let data = message(2, &[message(1, b"color"), message(2, b"blue")].concat());
    let map = [message(1, &metadata), data].concat();
    let type_meta = [message(1, b"v1"), message(2, b"ConfigMap")].concat();
    let unknown = [message(1, &type_meta), message(2, &map)].concat();
    let envelope = [&b"k8s\0"[..], &unknown].concat();
    let container = [message(1, b"c"), message(2, b"busybox:1.35"), vec![0x90, 1, 1]].concat();
    let pod = [message(1, &metadata), message(2, &message(2, &container))].concat();
    let mut inputs = vec![
        [&b"v1 ConfigMap\n"[..], &envelope].concat(),
        [&b"v1 ConfigMap\n"[..], &map].concat(),
        [&b"v1 Pod\n"[..], &pod].concat(),
    ];
    inputs.extend(registry::builtin().kinds().map(|kind| {
        let line = format!("{} {}\n", kind.api_version(), kind.kind);
        [line.as_bytes(), &message(1, &metadata)].concat()
    }));
    inputs
}

/// Objects, each with a patch that was sent to one of its kind.
pub fn patches() -> Vec<Vec<u8>> {
    let objects = recorded_objects();
    let mut inputs = Vec::new();
    for request in recorded()
        .into_iter()
        .filter(|request| request["method"] == "PATCH")
    {
        let (Some(kind), body) = (kind_of_path(&request["path"]), &request["body"]) else {
            continue;
        };
        let object = objects
            .iter()
            .find(|(found, _)| found.type_name == kind.type_name);
        let object = object.map_or_else(|| empty(kind), |(_, object)| object.clone());
        inputs.push(lines(kind, &[&object, body]));
    }
    let directives = json!({"spec": {
        "$retainKeys": ["containers"], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "$patch": "delete"}, {"$patch": "replace"}, {"name": "b", "$patch": "merge"}],
    }, "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "labels": null}});
    for (kind, object) in objects.iter().filter(|(kind, _)| kind.kind == "Pod").take(3) {
        inputs.push(lines(kind, &[object, &directives]));
    }
    inputs
}

/// Two configurations of one kind each.
pub fn applied() -> Vec<Vec<u8>> {
    let objects = recorded_objects();
    let pairs = objects.iter().zip(objects.iter().skip(1));
    let pairs = pairs.filter(|((one, _), (other, _))| one.type_name == other.type_name);
    pairs
        .map(|((kind, first), (_, second))| lines(kind, &[first, second]))
        .collect()
}

/// Selectors as queries and as objects.
pub fn selectors() -> Vec<Vec<u8>> {
    texts(&[
        "app=web",
        "app==web,tier!=db",
        "app in (a, b),tier notin (c),x,!y",
        "n>5,m<7",
        "metadata.name=web-0,status.phase!=Running",
        "a\\,b=c\\=d",
        r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"tier","operator":"In","values":["7",""]}]}"#,
    ])
}

/// Quantities in all forms.
pub fn quantities() -> Vec<Vec<u8>> {
    texts(&[
        "1\n2",
        "100m\n0.1",
        "1.5Gi\n-1Ki",
        "1e3\n1E",
        ".5\n5.",
        "+0\n-0",
        "9223372036854775807\n1n",
        "1n\n1Ei",
        "12345678901234567890123456789\n-12345678901234567890123456789",
        "1e-9\n1e18",
        "0.0000000001\n1u",
    ])
}

/// Times, and numbers for durations.
pub fn times() -> Vec<Vec<u8>> {
    texts(&[
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.123456789+14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "-9999-01-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2024-02-29t12:00:00-23:59",
        "0",
        "-1",
        "100000",
        "9223372036854775807",
        "-9223372036854775808",
    ])
}

/// Schedules of CronJobs.
pub fn schedules() -> Vec<Vec<u8>> {
    texts(&[
        "* * * * *\nEurope/Berlin\n2026-03-29T00:59:59Z",
        "@every 1h30m",
        "@daily\nAmerica/Sao_Paulo",
        "0 0 29 2 *",
        "*/15 2-4,6 1-31/2 JAN-DEC MON,7",
        "0 0 31 2 *",
        "TZ=UTC 5 4 * * sun",
        "@every 1ns",
        "59 23 31 12 6\n\n9999-12-31T23:59:59Z",
        "@hourly\nAntarctica/Troll\n-009999-01-02T01:59:59Z",
    ])
}

/// Names of images.
pub fn references() -> Vec<Vec<u8>> {
    texts(&[
        "busybox",
        "busybox:1.35",
        "localhost:5000/a/b_c:Tag-1",
        "[::1]:5000/a",
        "docker.io/library/busybox:latest",
        "index.docker.io/x",
        "a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "r.example.com/a:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ])
}

/// Docker's configurations.
pub fn credentials() -> Vec<Vec<u8>> {
    texts(&[
        "{\"auths\":{\"https://registry.example.com/v1/\":{\"auth\":\"dTpw\"}}}\nregistry.example.com/app:1",
        "{\"auths\":{\"docker.io\":{\"username\":\"u\",\"password\":\"p\"}},\"credsStore\":\"x\"}\nbusybox",
        "{\"registry.example.com\":{\"auth\":\"\"}}",
    ])
}

/// The recorded requests, as a line, a media type and a body.
pub fn requests() -> Vec<Vec<u8>> {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    recorded()
        .iter()
        .map(|request| {
            let path = text(&request["path"]).replace("{ns}", "golden");
            let media = request["contentType"].as_str().unwrap_or("application/json");
            format!(
                "{} {path}\n{media}\n{}",
                text(&request["method"]),
                text(&request["body"])
            )
            .into_bytes()
        })
        .collect()
}

/// All requests of the recorded cases, and objects that they begin with as requests that create them.
fn recorded() -> Vec<Value> {
    let mut requests = Vec::new();
    for case in cases() {
        let steps = case["steps"].as_array().cloned().unwrap_or_default();
        requests.extend(
            [&case]
                .into_iter()
                .chain(&steps)
                .map(|step| step["request"].clone()),
        );
        requests.push(json!({"method": "POST", "path": "", "body": case["base"]}));
    }
    requests.retain(|request| request["method"].is_string());
    requests
}

fn recorded_objects() -> Vec<(&'static Kind, Value)> {
    let mut objects = Vec::new();
    for case in cases() {
        let steps = case["steps"].as_array().cloned().unwrap_or_default();
        for step in [&case].into_iter().chain(&steps) {
            objects.extend(
                [&step["base"], &step["request"]["body"], &step["response"]["body"]].map(Value::clone),
            );
        }
    }
    let kind =
        |object: &Value| registry::builtin().kind(object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let with_kind = |object: Value| Some((kind(&object)?, object));
    let mut objects: Vec<_> = objects.into_iter().filter_map(with_kind).collect();
    objects.sort_by_key(|(kind, _)| kind.type_name);
    objects
}

fn cases() -> Vec<Value> {
    let mut files: Vec<_> = AREAS
        .iter()
        .filter_map(|area| fs::read_dir(Path::new(GOLDEN).join(area)).ok())
        .flat_map(|entries| entries.flatten())
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let texts = files.into_iter().filter_map(|file| fs::read_to_string(file).ok());
    texts
        .filter_map(|text| serde_json::from_str(&text).ok())
        .collect()
}

/// The kind of a path, without its query.
fn kind_of_path(path: &Value) -> Option<&'static Kind> {
    let path = path.as_str()?.split('?').next()?;
    let mut parts = path.trim_start_matches('/').split('/');
    let group = if parts.next()? == "api" { "" } else { parts.next()? };
    let version = parts.next()?;
    let rest: Vec<&str> = parts.collect();
    let plural = match rest[..] {
        ["namespaces", _, plural, ..] | [plural, ..] => plural,
        [] => return None,
    };
    registry::builtin().resource(group, version, plural)
}

fn empty(kind: &Kind) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "web"}})
}

fn lines(kind: &Kind, documents: &[&Value]) -> Vec<u8> {
    let mut text = format!("{} {}", kind.api_version(), kind.kind);
    for document in documents {
        text.push('\n');
        text.push_str(&document.to_string());
    }
    text.into_bytes()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
