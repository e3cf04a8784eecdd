//! What is written down of requests, and the other ways to show who one is.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stead_tests::{Cluster, Machine, on_a_cluster, on_a_machine};

use crate::Tests;

pub(crate) const TESTS: Tests = &[
    ("audit: who asked for what is written down", written_down),
    (
        "access: bootstrap tokens, and how others check tokens",
        other_tokens,
    ),
];

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:nodes"]
- level: RequestResponse
  verbs: [create]
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
  resources: [{group: "", resources: [configmaps, secrets]}]
- level: None
"#;

fn written_down() -> Result<()> {
    on_a_machine(audited)
}

fn audited(machine: &Machine) -> Result<()> {
    let cluster = Cluster::new(machine, "data")?;
    let policy = machine.dir().join("policy.yaml");
    fs::write(&policy, "kind: Policy")?;
    let up = |cluster: &Cluster<'_>| {
        let line = format!(
            "up --detach --kubeconfig {} --audit-policy {}",
            cluster.kubeconfig().display(),
            policy.display()
        );
        cluster.stead(&line)
    };
    let refused = up(&cluster)?.fails()?;
    refused.says(&["read the audit policy", "apiVersion"])?;
    fs::write(&policy, POLICY)?;
    up(&cluster)?.ok()?;
    machine.note_cgroups()?;
    cluster.kubectl("create configmap c --from-literal=a=b").ok()?;
    cluster.kubectl("get configmaps --as=jane").fails()?;
    cluster.kubectl("get secrets").ok()?;
    cluster.kubectl("get pods").ok()?;
    let text = fs::read_to_string(cluster.data_dir().join("audit.log"))?;
    let events = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()
        .context("each line is JSON")?;
    let of = |verb: &str, resource: &str| {
        let found = events.iter().find(|event| {
            event["verb"] == verb
                && event["objectRef"]["resource"] == resource
                && event["userAgent"]
                    .as_str()
                    .is_some_and(|agent| agent.starts_with("kubectl"))
        });
        found.with_context(|| format!("no {verb} of {resource} in\n{text}"))
    };
    let created = of("create", "configmaps")?;
    ensure!(
        created["stage"] == "ResponseComplete"
            && created["level"] == "RequestResponse"
            && created["objectRef"]["name"] == "c"
            && created["requestObject"]["data"]["a"] == "b"
            && created["responseObject"]["metadata"]["uid"].is_string()
            && created["responseStatus"]["code"] == 201
            && created["user"]["groups"][0] == "system:masters"
            && created["sourceIPs"][0] == "127.0.0.1"
            && created["annotations"]["authorization.k8s.io/decision"] == "allow",
        "{created}"
    );
    let forbidden = of("list", "configmaps")?;
    ensure!(
        forbidden["impersonatedUser"]["username"] == "jane"
            && forbidden["responseStatus"]["reason"] == "Forbidden"
            && forbidden["annotations"]["authorization.k8s.io/decision"] == "forbid",
        "{forbidden}"
    );
    ensure!(of("list", "secrets")?["requestObject"].is_null());
    ensure!(of("list", "pods").is_err());
    cluster.delete()?;
    fs::remove_file(policy).context("remove the policy")
}

const TOKEN: &str = "{apiVersion: v1, kind: Secret, type: bootstrap.kubernetes.io/token, \
    metadata: {name: bootstrap-token-abcdef, namespace: kube-system}, \
    stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: 'true', \
    auth-extra-groups: 'system:bootstrappers:workers'}}";

fn other_tokens() -> Result<()> {
    on_a_cluster(|cluster| {
        let config = cluster.kubectl("config view --raw --output json").ok()?;
        let mut config: Value = serde_json::from_str(&config).context("read the kubeconfig")?;
        config["users"][0]["user"] = json!({});
        let bare = cluster.kubeconfig().with_extension("bare");
        fs::write(&bare, config.to_string())?;
        let whoami = format!(
            "auth whoami --kubeconfig={} --token=abcdef.0123456789abcdef",
            bare.display()
        );
        cluster.kubectl(&whoami).fails()?.says(&["Unauthorized"])?;
        cluster.apply(TOKEN)?;
        let me = cluster.kubectl(&whoami).ok()?;
        crate::check_contains(
            &me,
            &[
                "system:bootstrap:abcdef",
                "system:bootstrappers:workers",
                "system:authenticated",
            ],
        )?;
        let discovery = cluster
            .kubectl("get --raw /.well-known/openid-configuration")
            .ok()?;
        crate::check_contains(
            &discovery,
            &["\"jwks_uri\":\"https://", "/openid/v1/jwks", "ES256"],
        )?;
        let keys = cluster.kubectl("get --raw /openid/v1/jwks").ok()?;
        crate::check_contains(&keys, &["\"kty\":\"EC\"", "\"crv\":\"P-256\""])
    })
}
