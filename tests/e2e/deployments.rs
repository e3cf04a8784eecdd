//! Deployments, through the oldest and the newest `kubectl` at hand.

use anyhow::{Result, ensure};
use stead_tests::{eventually, kubectl, on_a_cluster};

use crate::site::two_tools;
use crate::{Tests, follow};

pub(crate) const TESTS: Tests = &[("deployments: roll out, undo, pause, scale and delete", roll_out)];

/// A command, and what it says when it has done it; after `!`, what it says when it fails.
const COMMANDS: &[(&str, &[&str])] = &[
    (
        "create deployment web --image=tool:1 --replicas=2 -- sh -c 'trap \"exit 0\" TERM; sleep 1000000 & wait'",
        &["created"],
    ),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "get deployment web -o wide",
        &["2/2", "UP-TO-DATE", "AVAILABLE", "tool:1", "app=web"],
    ),
    ("get rs", &["DESIRED", "CURRENT", "READY"]),
    ("set image deployment/web tool=tool:2", &["image updated"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "get pods -o jsonpath={.items[*].spec.containers[0].image} --field-selector=status.phase=Running",
        &["tool:2"],
    ),
    ("rollout history deployment/web", &["REVISION", "1", "2"]),
    ("rollout history deployment/web --revision=1", &["tool:1"]),
    ("rollout undo deployment/web", &["rolled back"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    ("rollout history deployment/web", &["2", "3"]),
    ("rollout pause deployment/web", &["paused"]),
    ("set image deployment/web tool=tool:2", &["image updated"]),
    (
        "rollout undo deployment/web",
        &["!", "you cannot rollback a paused deployment"],
    ),
    ("get deployment web -o jsonpath={.spec.paused}", &["true"]),
    ("rollout resume deployment/web", &["resumed"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "scale deployment web --current-replicas=2 --replicas=3",
        &["scaled"],
    ),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "wait deployment/web --for=condition=Available --timeout=60s",
        &["condition met"],
    ),
    ("rollout restart deployment/web", &["restarted"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "describe deployment web",
        &[
            "3 desired | 3 updated | 3 total | 3 available | 0 unavailable",
            "25% max unavailable, 25% max surge",
            "NewReplicaSetAvailable",
            "ScalingReplicaSet",
        ],
    ),
    ("expose deployment web --port=80", &["exposed"]),
    ("set image deployment/web tool=absent:1", &["image updated"]),
    (
        "rollout status deployment/web --timeout=2s",
        &["!", "timed out waiting for the condition"],
    ),
    ("get deployment web", &["3/3"]),
    ("rollout undo deployment/web", &["rolled back"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    (
        "patch deployment web -p '{\"spec\":{\"strategy\":{\"type\":\"Recreate\",\"rollingUpdate\":null}}}'",
        &["patched"],
    ),
    ("set image deployment/web tool=tool:1", &["image updated"]),
    (
        "rollout status deployment/web --timeout=60s",
        &["successfully rolled out"],
    ),
    ("delete deployment web", &["deleted"]),
    ("delete service web", &["deleted"]),
];

fn roll_out() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&two_tools())?;
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            let cluster = &cluster.with_kubectl(kubectl);
            follow(cluster, COMMANDS)?;
            eventually("all goes with the deployment", || {
                for kind in ["replicasets", "pods"] {
                    let left = cluster.kubectl(&format!("get {kind} -o name")).ok()?;
                    ensure!(left.is_empty(), "{left}");
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}
