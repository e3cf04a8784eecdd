//! Who may do what, through the oldest and the newest `kubectl` at hand.

use anyhow::Result;
use stead_tests::{kubectl, on_a_cluster};

use crate::{Tests, follow};

pub(crate) const TESTS: Tests = &[("access: roles, bindings and who one is", grant_and_take_away)];

const COMMANDS: &[(&str, &[&str])] = &[
    ("create serviceaccount reader", &["created"]),
    (
        "auth can-i list pods --as=system:serviceaccount:default:reader",
        &["!", "no"],
    ),
    (
        "create role pod-reader --verb=get,list,watch --resource=pods,pods/log",
        &["created"],
    ),
    (
        "create rolebinding read-pods --role=pod-reader --serviceaccount=default:reader",
        &["created"],
    ),
    (
        "auth can-i list pods --as=system:serviceaccount:default:reader",
        &["yes"],
    ),
    (
        "auth can-i get pods --subresource=log --as=system:serviceaccount:default:reader",
        &["yes"],
    ),
    (
        "auth can-i list pods -n kube-system --as=system:serviceaccount:default:reader",
        &["!", "no"],
    ),
    (
        "auth can-i --list --as=system:serviceaccount:default:reader",
        &["pods/log", "[get list watch]", "selfsubjectaccessreviews"],
    ),
    (
        "get pods --as=system:serviceaccount:default:reader",
        &["No resources found in default namespace."],
    ),
    (
        "get secrets --as=system:serviceaccount:default:reader",
        &[
            "!",
            "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\"",
        ],
    ),
    (
        "get rolebindings -o wide",
        &["ROLE", "SERVICEACCOUNTS", "Role/pod-reader", "default/reader"],
    ),
    ("describe role pod-reader", &["pods/log", "[get list watch]"]),
    ("delete rolebinding read-pods", &["deleted"]),
    (
        "get pods --as=system:serviceaccount:default:reader",
        &["!", "forbidden"],
    ),
    (
        "create clusterrolebinding viewers --clusterrole=view --group=devs",
        &["created"],
    ),
    (
        "get statefulsets -A --as=jane --as-group=devs",
        &["No resources found"],
    ),
    (
        "create configmap x --as=jane --as-group=devs",
        &["!", "cannot create resource \"configmaps\""],
    ),
    (
        "create role more --verb=get --resource=secrets --as=jane --as-group=devs",
        &["!", "cannot create resource \"roles\""],
    ),
    // A role that collects others, and what becomes of it as those change.
    (
        "create clusterrole part --verb=get --resource=nodes",
        &["created"],
    ),
    (
        "label clusterrole part rbac.authorization.k8s.io/aggregate-to-view=true",
        &["labeled"],
    ),
    (
        "wait clusterrole/view --for=jsonpath={.rules[0].resources[0]}=nodes --timeout=30s",
        &["condition met"],
    ),
    ("get nodes --as=jane --as-group=devs", &["!", "cannot list"]),
    ("auth can-i get nodes --as=jane --as-group=devs", &["yes"]),
    ("delete clusterrole part", &["deleted"]),
    ("delete clusterrolebinding viewers", &["deleted"]),
    ("delete role pod-reader", &["deleted"]),
    ("delete serviceaccount reader", &["deleted"]),
];

fn grant_and_take_away() -> Result<()> {
    on_a_cluster(|cluster| {
        for kubectl in [kubectl::oldest()?, kubectl::newest()?] {
            follow(&cluster.with_kubectl(kubectl), COMMANDS)?;
        }
        let me = cluster.kubectl("auth whoami").ok()?;
        crate::check_contains(
            &me,
            &["Username", "Groups", "[system:masters system:authenticated]"],
        )
    })
}
