//! What one does with a StatefulSet, through each version of `kubectl` at hand.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stead_tests::api::Api;
use stead_tests::kubectl::{self, Kubectl};
use stead_tests::{Cluster, on_a_cluster, side_by_side};

use crate::replays::make_namespace;
use crate::site::{Site, two_tools};
use crate::{Tests, answered};

pub(crate) const TESTS: Tests = &[("kubectl: all versions work on sets", all_versions)];

/// A command, and what it says when it has done it; after `!`, what it says when it fails.
type Command = (&'static str, &'static [&'static str]);

/// In this order, on a set `web` of two replicas with the image `tool:1`.
const COMMANDS: &[Command] = &[
    ("rollout status sts/web", &["complete"]),
    ("get sts web -o wide", &["CONTAINERS", "IMAGES", "2/2", "tool:1"]),
    (
        "describe sts web",
        &[
            "Update Strategy:    RollingUpdate",
            "2 desired | 2 total",
            "2 Running / 0 Waiting",
            "SuccessfulCreate",
        ],
    ),
    ("set image sts/web main=tool:2", &["image updated"]),
    ("set env sts/web COLOR=blue", &["env updated"]),
    ("set env sts/web --list", &["COLOR=blue"]),
    ("edit sts web", &["edited"]),
    ("set env sts/web --list", &["COLOR=green"]),
    (
        "set resources sts/web --limits=memory=64Mi",
        &["resource requirements updated"],
    ),
    ("annotate sts web note=one", &["annotate"]),
    ("annotate sts web note=two", &["!", "--overwrite is false"]),
    ("rollout status sts/web --timeout=60s", &["complete"]),
    (
        "rollout history sts/web",
        &["REVISION", "CHANGE-CAUSE", "1", "2", "3"],
    ),
    ("rollout history sts/web --revision=2", &["tool:2"]),
    ("rollout history sts/web --revision=99", &["!", "unable to find"]),
    (
        "rollout undo sts/web --to-revision=99",
        &["!", "unable to find specified revision 99"],
    ),
    ("rollout undo sts/web --to-revision=1", &["rolled back"]),
    ("set env sts/web --list", &["web"]),
    ("rollout status sts/web --timeout=60s", &["complete"]),
    (
        "get pods -o jsonpath={.items[*].spec.containers[0].image}",
        &["tool:1 tool:1"],
    ),
    ("rollout undo sts/web", &["rolled back"]),
    ("set env sts/web --list", &["COLOR=green"]),
    ("rollout restart sts/web", &["restarted"]),
    ("rollout pause sts/web", &["!", "pausing is not supported"]),
    ("rollout resume sts/web", &["!", "resuming is not supported"]),
    (
        "scale sts web --current-replicas=7 --replicas=3",
        &["!", "Expected replicas to be 7, was 2"],
    ),
    ("scale sts web --current-replicas=2 --replicas=1", &["scaled"]),
    (
        "patch sts web -p '{\"spec\":{\"minReadySeconds\":1}}'",
        &["patched"],
    ),
    (
        "patch sts web --type=merge -p '{\"spec\":{\"minReadySeconds\":null}}'",
        &["patched"],
    ),
    (
        "patch sts web --type=json -p '[{\"op\":\"test\",\"path\":\"/spec/replicas\",\"value\":2}]'",
        &["!", "is invalid"],
    ),
    (
        "patch sts web -p '{\"spec\":{\"serviceName\":\"other\"}}'",
        &["!", "Forbidden"],
    ),
    (
        "autoscale sts web --min=2 --max=4 --cpu-percent=70",
        &["autoscaled"],
    ),
    (
        "get hpa web --no-headers",
        &["StatefulSet/web", "<unknown>/70%", "2", "4"],
    ),
    (
        "wait sts/web --for=jsonpath={.spec.replicas}=2",
        &["condition met"],
    ),
    (
        "wait hpa/web --for=condition=ScalingActive=false",
        &["condition met"],
    ),
    (
        "describe hpa web",
        &[
            "Current number of replicas below Spec.MinReplicas",
            "FailedGetResourceMetric",
        ],
    ),
    ("delete hpa web", &["deleted"]),
    ("scale sts web --replicas=1", &["scaled"]),
    ("label sts web tier=db", &["labeled"]),
    ("label sts web tier=web", &["!", "--overwrite is false"]),
    ("get sts -l tier=db -o name", &["statefulset.apps/web"]),
    ("rollout status sts/web --timeout=60s", &["complete"]),
    ("delete sts web --cascade=orphan", &["deleted"]),
    ("get sts", &["No resources found"]),
    ("get pods -o name", &["pod/web-0"]),
];

fn all_versions() -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&two_tools())?;
        let api = Api::open(cluster)?;
        let versions = kubectl::all()?;
        ensure!(versions.len() > 1, "{versions:?}");
        let api = &api;
        let run = |kubectl: Kubectl| (kubectl.to_string(), move || commands(cluster, api, kubectl));
        side_by_side(versions.into_iter().map(run))
    })
}

fn commands(cluster: &Cluster, api: &Api, kubectl: Kubectl) -> Result<()> {
    let namespace = format!("with-1-{}", kubectl.minor);
    make_namespace(api, &namespace)?;
    let cluster = &cluster.with_kubectl(kubectl);
    let site = Site {
        cluster,
        api,
        namespace,
    };
    site.make_set(2, json!({}))?;
    site.settled()?;
    for (line, parts) in COMMANDS {
        let outcome = site.kubectl(line).env("EDITOR", "sed -i s/blue/green/").run()?;
        answered(&outcome, parts).with_context(|| (*line).to_owned())?;
    }
    Ok(())
}
