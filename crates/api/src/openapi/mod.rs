//! OpenAPI v3 documents, one a group version, made from the registry and the table of types.
//!
//! See "Kubernetes OpenAPI Specification". Clients read three things in them: kubectl looks at the
//! query parameters of a kind's PATCH to learn whether the server validates fields, and refuses to
//! apply otherwise; `kubectl explain` shows the schemas; generators make clients of both. The table
//! has no descriptions, so neither have the documents. OpenAPI v2 is made of v3, in JSON; as protobuf,
//! in which only kubectl asks for it, it describes nothing: kubectl before 1.29 does not apply or
//! explain without one, but then reads v3.

mod older;
mod paths;
mod schemas;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::KUBERNETES_VERSION;
use crate::registry::{self, Kind, Registry};

use schemas::Schemas;

/// Hashes of the built-in kinds' documents. Making a document takes milliseconds, and every
/// `kubectl apply` asks for the list of all.
static BUILTIN_HASHES: LazyLock<HashMap<String, String>> = LazyLock::new(|| hashes(registry::builtin()));

/// `/openapi/v3`: where the documents are. A document's URL holds a hash of it, so that a client
/// may keep what it got from there.
pub fn root(registry: &Registry) -> Value {
    let hashes = hashes_of(registry);
    let entry =
        |(path, hash): (&String, &String)| (path.clone(), json!({"serverRelativeURL": url(path, hash)}));
    json!({"paths": hashes.iter().map(entry).collect::<Map<_, _>>()})
}

/// The URL of the document of a path as it is now; none where nothing is served.
pub fn current_url(registry: &Registry, path: &str) -> Option<String> {
    hashes_of(registry).get(path).map(|hash| url(path, hash))
}

fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

fn hashes_of(registry: &Registry) -> Cow<'static, HashMap<String, String>> {
    if std::ptr::eq(registry, registry::builtin()) {
        Cow::Borrowed(&BUILTIN_HASHES)
    } else {
        Cow::Owned(hashes(registry))
    }
}

/// The document of a path such as `api/v1` or `apis/apps/v1`; none where nothing is served.
pub fn document(registry: &Registry, path: &str) -> Option<Value> {
    let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => ("", version),
        ["apis", group, version] if !group.is_empty() => (group, version),
        _ => return None,
    };
    let mut kinds: Vec<&'static Kind> = registry
        .kinds()
        .filter(|kind| kind.group == group && kind.version == version)
        .collect();
    kinds.sort_by_key(|kind| kind.plural);
    if kinds.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new(registry, group, version);
    let mut paths = Map::new();
    for kind in kinds {
        paths::add(kind, path, &mut schemas, &mut paths);
    }
    let (title, version) = info();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": {"BearerToken": {
                "type": "apiKey",
                "description": "Bearer Token authentication",
                "name": "authorization",
                "in": "header",
            }},
        },
    }))
}

/// `/openapi/v2`: one document of the older form for all groups.
pub fn v2(registry: &Registry) -> Value {
    let (title, version) = info();
    let documents = paths_of(registry).filter_map(|path| document(registry, &path));
    older::merged(documents, &json!({"title": title, "version": version}))
}

/// A `openapi.v2.Document` of gnostic without paths or types, the only form in which kubectl takes it.
pub fn v2_protobuf() -> Vec<u8> {
    /// A field of bytes: its tag, the length, the content. All here are shorter than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap_or_default();
        [&[number << 3 | 2, length][..], content].concat()
    }
    let (title, version) = info();
    let info = [field(1, title.as_bytes()), field(2, version.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

fn info() -> (&'static str, String) {
    let (major, minor, patch) = KUBERNETES_VERSION;
    ("Kubernetes", format!("v{major}.{minor}.{patch}"))
}

/// The path of each document and a hash of its content.
fn hashes(registry: &Registry) -> HashMap<String, String> {
    let hashed = paths_of(registry).filter_map(|path| {
        let document = document(registry, &path)?;
        Some((path, hash(document.to_string().as_bytes())))
    });
    hashed.collect()
}

/// The path of each group and version.
fn paths_of(registry: &Registry) -> impl Iterator<Item = String> {
    let groups = registry.group_versions().into_iter();
    groups.flat_map(|(group, versions)| {
        versions.into_iter().map(move |version| match group {
            "" => format!("api/{version}"),
            _ => format!("apis/{group}/{version}"),
        })
    })
}

/// FNV-1a, twice with different starts: it tells documents apart, and nobody gains by a collision.
fn hash(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for start in [0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15] {
        let hash = bytes.iter().fold(start, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // Writing to a String cannot fail.
        let _ = write!(text, "{hash:016X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builtin(path: &str) -> Value {
        document(registry::builtin(), path).expect("a served group version")
    }

    fn has_parameter(operation: &Value, name: &str) -> bool {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        parameters.into_iter().any(|parameter| parameter["name"] == name)
    }

    #[test]
    fn a_kinds_patch_says_that_fields_are_validated() {
        let document = builtin("apis/apps/v1");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "StatefulSet"})
        );
        for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
            assert!(has_parameter(patch, name), "{name}");
        }
        let content = &patch["requestBody"]["content"];
        assert!(content["application/strategic-merge-patch+json"].is_object());
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        for path in hashes(registry::builtin()).keys() {
            let document = builtin(path);
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty(), "{path}");
            for reference in found {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{path}: {reference}");
            }
        }
    }

    #[test]
    fn schemas_carry_their_semantics() {
        let document = builtin("api/v1");
        let schemas = &document["components"]["schemas"];
        let pod_spec = &schemas["io.k8s.api.core.v1.PodSpec"];
        let containers = &pod_spec["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(pod_spec["required"], json!(["containers"]));
        let volumes = &pod_spec["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert_eq!(
            pod_spec["properties"]["terminationGracePeriodSeconds"],
            json!({"type": "integer", "format": "int64"})
        );
        let int_or_string = &schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!(int_or_string["format"], "int-or-string");
        for kind in ["Pod", "PodList"] {
            let schema = &schemas[format!("io.k8s.api.core.v1.{kind}")];
            assert_eq!(
                schema["x-kubernetes-group-version-kind"],
                json!([{"group": "", "version": "v1", "kind": kind}])
            );
        }
    }

    #[test]
    fn the_list_of_documents_names_each_with_its_hash() {
        let root = root(registry::builtin());
        for path in ["api/v1", "apis/apps/v1"] {
            let url = root["paths"][path]["serverRelativeURL"]
                .as_str()
                .unwrap_or_default();
            assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        }
        assert_eq!(
            root["paths"]["api/v1"]["serverRelativeURL"].as_str(),
            current_url(registry::builtin(), "api/v1").as_deref()
        );
    }

    #[test]
    fn the_older_document_says_its_version() {
        let bytes = v2_protobuf();
        assert_eq!(&bytes[..7], b"\x0a\x032.0\x12\x15");
        assert_eq!(bytes.len(), 7 + 0x15);
        let document = v2(registry::builtin());
        assert_eq!(document["swagger"], "2.0");
        let definitions = &document["definitions"];
        assert!(definitions["io.k8s.api.apps.v1.StatefulSet"]["properties"]["spec"]["$ref"].is_string());
        // Every reference leads somewhere.
        let text = document.to_string();
        for reference in text.split("\"#/definitions/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(definitions[name].is_object(), "{name}");
        }
        assert!(!text.contains("#/components/") && !text.contains("oneOf"));
    }

    #[test]
    fn what_is_not_served_has_no_document() {
        for path in [
            "",
            "api",
            "api/v2",
            "apis/apps",
            "apis/nogroup/v1",
            "apis//v1",
            "api/v1/pods",
        ] {
            assert!(document(registry::builtin(), path).is_none(), "{path}");
        }
    }
}
