//! Paths and operations of a kind and its subresources.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::registry::{Kind, Subresource};

const BODY_TYPES: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const ANSWER_TYPES: [&str; 2] = ["application/json", "application/yaml"];
const PATCH_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A query parameter: its name and type.
type Parameter = (&'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string");
const DRY_RUN: Parameter = ("dryRun", "string");
const WRITE: [Parameter; 3] = [DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string")];
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const DELETE: [Parameter; 4] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LOG: [Parameter; 10] = [
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("sinceTime", "string"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const STREAMS: [Parameter; 6] = [
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const PORTS: [Parameter; 1] = [("ports", "integer")];

/// Adds the paths of a kind, under the path of its group version.
pub(super) fn add(kind: &Kind, base: &str, schemas: &mut Schemas, paths: &mut Map<String, Value>) {
    let all = format!("/{base}/{}", kind.plural);
    let collection = if kind.namespaced {
        format!("/{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        all.clone()
    };
    if kind.namespaced && kind.verbs.contains(&"list") {
        let mut operations = Operations::new(kind, false, false);
        operations.id_suffix = "ForAllNamespaces";
        operations.list(schemas);
        operations.add_to(paths, all);
    }
    let mut operations = Operations::new(kind, kind.namespaced, false);
    for verb in ["list", "create", "deletecollection"] {
        if kind.verbs.contains(&verb) {
            operations.collection(verb, schemas);
        }
    }
    operations.add_to(paths, collection.clone());
    let mut operations = Operations::new(kind, kind.namespaced, true);
    for verb in ["get", "update", "patch", "delete"] {
        if kind.verbs.contains(&verb) {
            operations.object(verb, schemas);
        }
    }
    operations.add_to(paths, format!("{collection}/{{name}}"));
    for subresource in kind.subresources {
        let mut operations = Operations::new(kind, kind.namespaced, true);
        operations.subresource(subresource, schemas);
        operations.add_to(paths, format!("{collection}/{{name}}/{}", subresource.name));
    }
}

/// The operations of a path.
struct Operations<'k> {
    kind: &'k Kind,
    /// Parameters of the path itself.
    path_parameters: Vec<Value>,
    namespaced: bool,
    id_suffix: &'static str,
    made: Map<String, Value>,
}

impl<'k> Operations<'k> {
    fn new(kind: &'k Kind, namespaced: bool, named: bool) -> Operations<'k> {
        let in_path = |name: &str| {
            json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string", "uniqueItems": true},
            })
        };
        let mut path_parameters = Vec::new();
        if named {
            path_parameters.push(in_path("name"));
        }
        if namespaced {
            path_parameters.push(in_path("namespace"));
        }
        path_parameters.push(in_query(PRETTY));
        Operations {
            kind,
            path_parameters,
            namespaced,
            id_suffix: "",
            made: Map::new(),
        }
    }

    fn add_to(self, paths: &mut Map<String, Value>, path: String) {
        if !self.made.is_empty() {
            let mut item = self.made;
            item.insert("parameters".to_owned(), self.path_parameters.into());
            paths.insert(path, item.into());
        }
    }

    fn collection(&mut self, verb: &str, schemas: &mut Schemas) {
        match verb {
            "list" => self.list(schemas),
            "create" => {
                let kind = schemas.kind(self.kind);
                let body = body(&BODY_TYPES, &kind);
                self.add(
                    "post",
                    "create",
                    "post",
                    &WRITE,
                    Some(body),
                    &[200, 201, 202],
                    &kind,
                );
            }
            _ => {
                let status = schemas.status();
                let body = body(&BODY_TYPES, &schemas.delete_options());
                let parameters: Vec<_> = DELETE.into_iter().chain(LIST).collect();
                self.id_suffix = "Collection";
                self.add(
                    "delete",
                    "delete",
                    "deletecollection",
                    &parameters,
                    Some(body),
                    &[200],
                    &status,
                );
                self.id_suffix = "";
            }
        }
    }

    fn list(&mut self, schemas: &mut Schemas) {
        let list = schemas.list(self.kind);
        self.add("get", "list", "list", &LIST, None, &[200], &list);
    }

    fn object(&mut self, verb: &str, schemas: &mut Schemas) {
        let kind = schemas.kind(self.kind);
        match verb {
            "get" => self.add("get", "read", "get", &[], None, &[200], &kind),
            "update" => {
                self.add(
                    "put",
                    "replace",
                    "put",
                    &WRITE,
                    Some(body(&BODY_TYPES, &kind)),
                    &[200, 201],
                    &kind,
                );
            }
            "patch" => self.patch(&kind, schemas),
            _ => {
                let status = schemas.status();
                let body = body(&BODY_TYPES, &schemas.delete_options());
                self.add(
                    "delete",
                    "delete",
                    "delete",
                    &DELETE,
                    Some(body),
                    &[200, 202],
                    &status,
                );
            }
        }
    }

    fn patch(&mut self, answer: &Value, schemas: &mut Schemas) {
        let parameters: Vec<_> = WRITE.into_iter().chain([("force", "boolean")]).collect();
        let body = body(&PATCH_TYPES, &schemas.patch());
        self.add(
            "patch",
            "patch",
            "patch",
            &parameters,
            Some(body),
            &[200, 201],
            answer,
        );
    }

    fn subresource(&mut self, subresource: &Subresource, schemas: &mut Schemas) {
        let own = (self.kind.group, self.kind.version);
        let (group, version) = subresource.group_version.unwrap_or(own);
        let gvk = json!({"group": group, "version": version, "kind": subresource.kind});
        let connected: Option<&[Parameter]> = match subresource.name {
            "exec" => Some(&STREAMS),
            "attach" => Some(&STREAMS[1..]),
            "portforward" => Some(&PORTS),
            _ => None,
        };
        let schema = schemas.subresource(group, version, subresource.kind);
        let schema = schema.unwrap_or_else(|| json!({"type": "string"}));
        for verb in subresource.verbs {
            let sent = || Some(body(&BODY_TYPES, &schema));
            match (*verb, connected) {
                ("get", Some(parameters)) => {
                    self.add(
                        "get",
                        "connectGet",
                        "connect",
                        parameters,
                        None,
                        &[200],
                        &json!({"type": "string"}),
                    );
                }
                ("create", Some(parameters)) => {
                    self.add(
                        "post",
                        "connectPost",
                        "connect",
                        parameters,
                        None,
                        &[200],
                        &json!({"type": "string"}),
                    );
                }
                ("get", None) if subresource.name == "log" => {
                    self.add(
                        "get",
                        "read",
                        "get",
                        &LOG,
                        None,
                        &[200],
                        &json!({"type": "string"}),
                    );
                }
                ("get", None) => self.add("get", "read", "get", &[], None, &[200], &schema),
                ("create", None) => {
                    self.add(
                        "post",
                        "create",
                        "post",
                        &WRITE,
                        sent(),
                        &[200, 201, 202],
                        &schema,
                    );
                }
                ("update", None) => self.add("put", "replace", "put", &WRITE, sent(), &[200, 201], &schema),
                ("patch", None) => self.patch(&schema, schemas),
                _ => {}
            }
        }
        let name = capitalized(subresource.name);
        for operation in self.made.values_mut() {
            operation["x-kubernetes-group-version-kind"] = gvk.clone();
            let id = operation["operationId"].as_str().unwrap_or_default();
            operation["operationId"] = format!("{id}{name}").into();
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is one part of an operation, given once per verb"
    )]
    fn add(
        &mut self,
        method: &str,
        id_verb: &str,
        action: &str,
        parameters: &[Parameter],
        body: Option<Value>,
        codes: &[u16],
        answer: &Value,
    ) {
        let kind = self.kind;
        let group = match kind.group {
            "" => "core".to_owned(),
            group => group.trim_end_matches(".k8s.io").replace('.', "_"),
        };
        let camel: String = group.split('_').map(capitalized).collect();
        let version = capitalized(kind.version);
        let collection = if self.id_suffix == "Collection" {
            "Collection"
        } else {
            ""
        };
        let scope = if self.namespaced { "Namespaced" } else { "" };
        let suffix = if collection.is_empty() { self.id_suffix } else { "" };
        let mut responses: Map<String, Value> = codes
            .iter()
            .map(|code| (code.to_string(), response(answer)))
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut operation = json!({
            "operationId": format!("{id_verb}{camel}{version}{collection}{scope}{}{suffix}", kind.kind),
            "tags": [format!("{group}_{}", kind.version)],
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                {"group": kind.group, "version": kind.version, "kind": kind.kind},
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.iter().copied().map(in_query).collect();
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        self.made.insert(method.to_owned(), operation);
    }
}

fn in_query((name, ty): Parameter) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

fn content(types: &[&str], schema: &Value) -> Value {
    let entry = |media: &&str| ((*media).to_owned(), json!({"schema": schema}));
    Value::Object(types.iter().map(entry).collect())
}

fn body(types: &[&str], schema: &Value) -> Value {
    json!({"content": content(types, schema)})
}

fn response(schema: &Value) -> Value {
    let types: &[&str] = if schema["type"] == "string" {
        &["*/*"]
    } else {
        &ANSWER_TYPES
    };
    json!({"description": "OK", "content": content(types, schema)})
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(chars)
        .collect()
}
