//! Requests that are wrong at every level, past what `kubectl` would let through: each is answered with what
//! is wrong, and the server goes on.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stead_tests::api::{Answer, Api};
use stead_tests::{Cluster, on_a_cluster};

use crate::Tests;

pub(crate) const TESTS: Tests = &[
    ("malformed: bodies", bodies),
    ("malformed: fields, at every depth", fields),
    ("malformed: patches, queries and paths", the_rest),
];

const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";

/// Runs the cases, and checks that the server is none the worse for them.
fn on_a_server(cases: impl FnOnce(&mut Cases) -> Result<()>) -> Result<()> {
    on_a_cluster(|cluster| {
        let api = Api::open(cluster)?;
        let pid = cluster.server_pid()?;
        let wrong = Vec::new();
        let mut all = Cases { api: &api, wrong };
        cases(&mut all)?;
        ensure!(all.wrong.is_empty(), "{}", all.wrong.join("\n"));
        ensure!(cluster.server_pid()? == pid, "the server was restarted");
        // A proxy need not hear why its request was not read to the end.
        let large = "x".repeat(4 << 20);
        let large =
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: large}}, data: {{a: {large}}}}}");
        let outcome = cluster.kubectl("create -f -").stdin(large).fails()?;
        ensure!(
            outcome.stderr.contains("limit is 3145728"),
            "{:.500}",
            outcome.stderr
        );
        check_works(cluster, &api)?;
        let log = cluster.stead("logs")?.ok()?;
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    })
}

fn check_works(cluster: &Cluster, api: &Api) -> Result<()> {
    let found = cluster.kubectl("get sts,pods,configmaps -o name").ok()?;
    ensure!(
        found == "configmap/kube-root-ca.crt\n",
        "something was made: {found}"
    );
    api.post(
        CONFIG_MAPS,
        &json!({"metadata": {"name": "good"}, "data": {"a": "b"}}),
    )?;
    cluster.kubectl("delete configmap good").ok().map(drop)
}

/// Requests that are to be refused.
struct Cases<'a> {
    api: &'a Api,
    /// What was not as it should be.
    wrong: Vec<String>,
}

impl Cases<'_> {
    /// A request that is refused with this code, in a status that says why.
    fn refused(&mut self, request: (&str, &str, &str), body: &[u8], code: u16, said: &[&str]) {
        let (method, path, kind) = request;
        let answer = match self.api.ask_bytes(method, path, kind, body) {
            Ok(answer) if is_status(&answer, code, said) => return,
            Ok(answer) => format!("{} {}", answer.code, answer.body),
            Err(error) => format!("{error:#}"),
        };
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        self.wrong.push(format!(
            "{method} {path} of {kind:?}, {shown}: {answer}, rather than {code} {said:?}"
        ));
    }
}

fn is_status(answer: &Answer, code: u16, said: &[&str]) -> bool {
    let message = answer.body["message"].as_str().unwrap_or_default();
    let says = said.iter().all(|part| message.contains(part));
    answer.code == code && answer.body["kind"] == "Status" && answer.body["code"] == code && says
}

fn bodies() -> Result<()> {
    on_a_server(|server| {
        let deep = |open: &str, close: &str, depth: usize| {
            format!(
                r#"{{"metadata":{{"name":"deep"}},"data":{{"a":{}{}}}}}"#,
                open.repeat(depth),
                close.repeat(depth)
            )
        };
        let cases: [(&str, Vec<u8>, u16, &[&str]); 13] = [
            (JSON, b"".to_vec(), 400, &["unexpected end of JSON input"]),
            (
                JSON,
                br#"{"metadata":"#.to_vec(),
                400,
                &["unexpected end of JSON input"],
            ),
            (
                JSON,
                br#"{"metadata":{"name":"x"}}}"#.to_vec(),
                400,
                &["invalid character '}'"],
            ),
            (JSON, b"{'a': 1}".to_vec(), 400, &["invalid character '\\''"]),
            (JSON, b"[1, 2]".to_vec(), 400, &["ConfigMap"]),
            (JSON, b"null".to_vec(), 422, &["name or generateName is required"]),
            (JSON, b"\xff\xfe\x00".to_vec(), 400, &["invalid character"]),
            (
                JSON,
                deep("[", "]", 200_000).into_bytes(),
                400,
                &["cannot unmarshal array"],
            ),
            (JSON, deep("{\"a\":", "}", 200_000).into_bytes(), 400, &[]),
            ("text/html", b"<html>".to_vec(), 415, &["unknown format"]),
            ("application/yaml", b"a: [".to_vec(), 400, &["yaml"]),
            (
                "application/vnd.kubernetes.protobuf",
                b"k8s\0\xff\xff\xff".to_vec(),
                400,
                &[],
            ),
            (
                JSON,
                br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#.to_vec(),
                400,
                &["Secret in version \"v1\" cannot be handled as a ConfigMap"],
            ),
        ];
        for (kind, body, code, said) in cases {
            server.refused(("POST", CONFIG_MAPS, kind), &body, code, said);
        }
        Ok(())
    })
}

/// A StatefulSet that is right.
fn good() -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "serviceName": "web",
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{
                    "name": "main",
                    "image": "tool:1",
                    "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "value": "b"}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                    "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
                }]},
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
            }],
        },
    })
}

fn fields() -> Result<()> {
    on_a_server(|server| {
        const MAIN: &str = "/spec/template/spec/containers/0";
        let main = |field: &str| format!("{MAIN}/{field}");
        // Of a wrong type, which is told by its place; and of a value that makes no sense.
        let cases: Vec<(String, Value, u16, &[&str])> = vec![
            ("/metadata".into(), json!("web"), 400, &["metadata"]),
            ("/metadata/name".into(), json!(7), 400, &["name", "string"]),
            (
                "/metadata/labels/app".into(),
                json!({}),
                400,
                &["labels", "string"],
            ),
            (
                "/metadata/labels/app".into(),
                json!("not a label!"),
                422,
                &["metadata.labels"],
            ),
            ("/spec".into(), json!([]), 400, &["spec"]),
            (
                "/spec/replicas".into(),
                json!("many"),
                400,
                &["spec.replicas", "int32"],
            ),
            ("/spec/replicas".into(), json!(1e30), 400, &["replicas"]),
            (
                "/spec/replicas".into(),
                json!(-1),
                422,
                &["spec.replicas: Invalid value: -1"],
            ),
            (
                "/spec/selector/matchLabels".into(),
                json!({}),
                422,
                &["spec.selector"],
            ),
            ("/spec/template".into(), Value::Null, 422, &["spec.template"]),
            (
                "/spec/template/spec/containers".into(),
                json!({}),
                400,
                &["containers"],
            ),
            (
                "/spec/template/spec/containers".into(),
                json!([]),
                422,
                &["spec.template.spec.containers: Required value"],
            ),
            (MAIN.into(), json!("main"), 400, &["containers"]),
            (
                main("name"),
                json!("Not A Name"),
                422,
                &["spec.template.spec.containers[0].name"],
            ),
            (
                main("ports/0/containerPort"),
                json!("http"),
                400,
                &["containerPort", "int32"],
            ),
            (
                main("ports/0/containerPort"),
                json!(70_000),
                422,
                &["spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 70000"],
            ),
            (main("env/0/value"), json!(1), 400, &["value", "string"]),
            (
                main("env/0/name"),
                json!("="),
                422,
                &["spec.template.spec.containers[0].env[0].name"],
            ),
            (
                main("volumeMounts/0/name"),
                json!("absent"),
                422,
                &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"absent\""],
            ),
            (
                main("resources/limits/memory"),
                json!("lots"),
                400,
                &["quantities must match"],
            ),
            (
                main("resources/limits/memory"),
                json!("-1"),
                422,
                &["spec.template.spec.containers[0].resources.limits[memory]: Invalid value: \"-1\""],
            ),
            (
                main("readinessProbe/httpGet/port"),
                json!([]),
                400,
                &["cannot unmarshal array"],
            ),
            (
                main("readinessProbe/httpGet/port"),
                json!(0),
                422,
                &["spec.template.spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0"],
            ),
            (
                main("readinessProbe"),
                json!({}),
                422,
                &["spec.template.spec.containers[0].readinessProbe"],
            ),
            (
                "/spec/volumeClaimTemplates".into(),
                json!("data"),
                400,
                &["volumeClaimTemplates"],
            ),
        ];
        for (pointer, value, code, said) in cases {
            let mut set = good();
            let field = set.pointer_mut(&pointer);
            *field.with_context(|| format!("no {pointer}"))? = value;
            let body = set.to_string();
            server.refused(("POST", SETS, JSON), body.as_bytes(), code, said);
        }
        // Fields that are not there, when the client asks to be told.
        let strict = format!("{SETS}?fieldValidation=Strict");
        for (pointer, name, said) in [
            ("", "specs", "unknown field \"specs\""),
            ("/spec", "replica", "unknown field \"spec.replica\""),
            (
                MAIN,
                "imag",
                "unknown field \"spec.template.spec.containers[0].imag\"",
            ),
            (
                "/spec/template/spec/containers/0/ports/0",
                "port",
                "unknown field \"spec.template.spec.containers[0].ports[0].port\"",
            ),
        ] {
            let mut set = good();
            let parent = set.pointer_mut(pointer).and_then(Value::as_object_mut);
            parent.context(pointer)?.insert(name.to_owned(), json!(1));
            let body = set.to_string();
            server.refused(("POST", &strict, JSON), body.as_bytes(), 400, &[said]);
        }
        let twice = good()
            .to_string()
            .replacen("\"replicas\":0", "\"replicas\":0,\"replicas\":0", 1);
        server.refused(
            ("POST", &strict, JSON),
            twice.as_bytes(),
            400,
            &["duplicate field \"spec.replicas\""],
        );
        Ok(())
    })
}

fn the_rest() -> Result<()> {
    on_a_server(|server| {
        let map = format!("{CONFIG_MAPS}/kube-root-ca.crt");
        let (json_patch, merge, strategic) = (
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        );
        for (kind, body, code) in [
            (json_patch, "{}", 400),
            (json_patch, r#"[{"op":"explode","path":"/data"}]"#, 400),
            (json_patch, r#"[{"op":"remove","path":"/no/such"}]"#, 422),
            (json_patch, r#"[{"op":"test","path":"/data","value":1}]"#, 422),
            (merge, "[", 400),
            (merge, "[]", 400),
            (merge, r#"{"data":7}"#, 422),
            (merge, r#"{"metadata":{"name":"other"}}"#, 400),
            (strategic, r#"{"$patch":"explode"}"#, 400),
            (strategic, r#"{"metadata":{"resourceVersion":"1"}}"#, 409),
            ("application/unknown-patch", "{}", 415),
        ] {
            server.refused(("PATCH", &map, kind), body.as_bytes(), code, &[]);
        }
        for (query, code, said) in [
            ("limit=many", 400, "parsing \"many\""),
            // Upstream's code for this.
            (
                "resourceVersion=now",
                500,
                "resourceVersion: Invalid value: \"now\"",
            ),
            (
                "labelSelector=a%20b%20c",
                400,
                "unable to parse requirement: found 'b'",
            ),
            (
                "fieldSelector=spec.nothing%3Dx",
                400,
                "is not a known field selector",
            ),
            (
                "watch=true&resourceVersion=x",
                500,
                "resourceVersion: Invalid value: \"x\"",
            ),
            ("continue=rubbish", 400, "continue"),
        ] {
            let path = format!("{CONFIG_MAPS}?{query}");
            server.refused(("GET", &path, ""), b"", code, &[said]);
        }
        for (method, path, code) in [
            ("GET", "/api/v1/namespaces/default/nothing", 404),
            ("GET", "/api/v1/namespaces/default/configmaps/absent", 404),
            ("GET", "/apis/apps/v9/statefulsets", 404),
            (
                "GET",
                "/api/v1/namespaces/default/configmaps/..%2f..%2fsecrets",
                404,
            ),
            (
                "POST",
                "/api/v1/namespaces/default/configmaps/kube-root-ca.crt",
                405,
            ),
            ("PUT", CONFIG_MAPS, 405),
        ] {
            server.refused((method, path, JSON), b"{}", code, &[]);
        }
        Ok(())
    })
}
