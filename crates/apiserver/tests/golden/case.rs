//! What a file of each area holds, as one form: steps to play in order.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::hooks::Scripts;
use crate::sent::Sent;

/// The namespace that the areas besides `api` were recorded in.
const GOLDEN: &str = "golden";
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";

/// A case.
pub(crate) struct Case {
    pub(crate) namespace: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) webhooks: Scripts,
    /// Requests for certificates that it sends, by the names that stand for them.
    pub(crate) requests: BTreeMap<String, Subject>,
}

/// Whom a certificate is asked for.
#[derive(Deserialize)]
pub(crate) struct Subject {
    pub(crate) cn: String,
    pub(crate) org: String,
}

/// A request and what is to come of it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Step {
    pub(crate) request: Request,
    /// None: it need only succeed.
    pub(crate) response: Option<Answer>,
    /// Name → path in the answer.
    pub(crate) save: BTreeMap<String, String>,
    /// The body holds only these paths.
    pub(crate) pick: Option<Vec<String>>,
    /// The body holds only the keys at this path.
    pub(crate) keys: Option<String>,
    /// Lists at these paths are sorted.
    pub(crate) sort: Vec<String>,
    /// Values at these paths are dropped.
    pub(crate) drop: Vec<String>,
    /// What is not scrubbed.
    pub(crate) keep: Vec<String>,
    pub(crate) keep_headers: Vec<String>,
    pub(crate) watch: Option<Watch>,
    pub(crate) wait_for: Option<WaitFor>,
    /// What is asked for takes so long to be there, where the server itself does it.
    pub(crate) after_seconds: f64,
    /// Only these elements of the list at a path are compared, by a key; see `discovery`.
    #[serde(skip)]
    pub(crate) only: Option<Only>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Option<Sent>,
    pub(crate) headers: Map<String, Value>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
pub(crate) struct Watch {
    pub(crate) events: usize,
}

#[derive(Deserialize)]
pub(crate) struct WaitFor {
    pub(crate) path: String,
    /// `code` is the answer's, any other is of the object.
    #[serde(default)]
    pub(crate) field: String,
    #[serde(default)]
    pub(crate) equals: Value,
}

/// A list that holds more in the recording than this server has, or in another order.
pub(crate) struct Only {
    pub(crate) list: &'static str,
    /// Whether an element, by its name, is to be compared.
    pub(crate) served: fn(&str) -> bool,
}

impl Case {
    /// Reads the file of an area.
    pub(crate) fn read(area: &str, text: &str) -> Result<Case, serde_json::Error> {
        Ok(match area {
            "api" | "own" => played("case", serde_json::from_str(text)?),
            "tables" => table(serde_json::from_str(text)?),
            "discovery" => discovery(serde_json::from_str(text)?),
            _ => match serde_json::from_str(text)? {
                File::Steps(script) => played(GOLDEN, script),
                File::Request(request) => one_request(request),
            },
        })
    }
}

/// Steps, and what the webhooks that they meet say.
#[derive(Deserialize)]
struct Script {
    steps: Vec<Step>,
    #[serde(default)]
    webhook: Scripts,
    #[serde(default)]
    csr: BTreeMap<String, Subject>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Steps(Script),
    Request(OneRequest),
}

fn played(namespace: &'static str, script: Script) -> Case {
    Case {
        namespace,
        steps: script.steps,
        webhooks: script.webhook,
        requests: script.csr,
    }
}

/// A request, and for a patch the object that it changes.
#[derive(Deserialize)]
struct OneRequest {
    base: Option<Sent>,
    request: Request,
    response: Answer,
}

fn one_request(file: OneRequest) -> Case {
    let mut steps = Vec::new();
    if let Some(base) = file.base {
        let collection = file.request.path.split('?').next().unwrap_or_default();
        let collection = collection
            .rsplit_once('/')
            .map_or(collection, |(collection, _)| collection);
        let request = Request {
            method: "POST".to_owned(),
            path: collection.to_owned(),
            body: Some(base),
            ..Request::default()
        };
        steps.push(Step {
            request,
            ..Step::default()
        });
    }
    steps.push(Step {
        request: file.request,
        response: Some(file.response),
        ..Step::default()
    });
    Case {
        namespace: GOLDEN,
        steps,
        webhooks: Scripts::new(),
        requests: BTreeMap::new(),
    }
}

/// The columns of a resource.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    resource: String,
    group_version: String,
    columns: Value,
}

fn table(mut file: Table) -> Case {
    for column in file.columns.as_array_mut().into_iter().flatten() {
        if column["format"].is_null() {
            column["format"] = "".into();
        }
    }
    let base = if file.group_version.contains('/') {
        "apis"
    } else {
        "api"
    };
    let request = Request {
        method: "GET".to_owned(),
        path: format!("/{base}/{}/{}", file.group_version, file.resource),
        headers: Map::from_iter([("Accept".to_owned(), TABLE.into())]),
        ..Request::default()
    };
    let body = json!({"columnDefinitions": file.columns});
    let response = Some(Answer {
        code: 200,
        body,
        ..Answer::default()
    });
    let pick = Some(vec!["columnDefinitions".to_owned()]);
    Case {
        namespace: GOLDEN,
        steps: vec![Step {
            request,
            response,
            pick,
            ..Step::default()
        }],
        webhooks: Scripts::new(),
        requests: BTreeMap::new(),
    }
}

fn discovery(body: Value) -> Case {
    let (path, only) = match body["kind"].as_str().unwrap_or_default() {
        "APIVersions" => ("/api".to_owned(), None),
        "APIGroupList" => {
            let served = |name: &str| {
                stead_api::registry::builtin()
                    .group_versions()
                    .iter()
                    .any(|(group, _)| *group == name)
            };
            (
                "/apis".to_owned(),
                Some(Only {
                    list: "groups",
                    served,
                }),
            )
        }
        _ => {
            let version = body["groupVersion"].as_str().unwrap_or_default();
            let base = if version.contains('/') { "apis" } else { "api" };
            // A subresource is compared where its resource is served.
            let served = |name: &str| {
                let resource = name.split('/').next().unwrap_or_default();
                stead_api::registry::builtin()
                    .kinds()
                    .any(|kind| kind.plural == resource)
            };
            (
                format!("/{base}/{version}"),
                Some(Only {
                    list: "resources",
                    served,
                }),
            )
        }
    };
    let request = Request {
        method: "GET".to_owned(),
        path,
        ..Request::default()
    };
    let drop = vec!["serverAddressByClientCIDRs".to_owned()];
    let response = Some(Answer {
        code: 200,
        body,
        ..Answer::default()
    });
    Case {
        namespace: GOLDEN,
        steps: vec![Step {
            request,
            response,
            drop,
            only,
            ..Step::default()
        }],
        webhooks: Scripts::new(),
        requests: BTreeMap::new(),
    }
}
