//! Node (core/v1).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeAddress, Taint};
use serde_json::Value;

use super::resources::{round_up, validate_amount};
use super::{ip, name_cell, text};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::{age, list_or_none};
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["no"],
    namespaced: false,
    subresources: &[
        Subresource::proxy("NodeProxyOptions"),
        Subresource::status("Node"),
    ],
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    keeps_status_on_create: true,
    selectable: &[("spec.unschedulable", &["spec", "unschedulable"])],
    columns: &[
        Column::NAME,
        Column::new("Status", "whether it can run pods"),
        Column::new("Roles", "what it is for"),
        Column::AGE,
        Column::new("Version", "version of its kubelet"),
        Column::wide("Internal-IP", "address within the cluster"),
        Column::wide("External-IP", "address outside the cluster"),
        Column::wide("OS-Image", "its operating system"),
        Column::wide("Kernel-Version", "its kernel"),
        Column::wide("Container-Runtime", "what runs its containers"),
    ],
    ..Kind::new(
        ("", "v1", "Node"),
        ("nodes", "node"),
        "io.k8s.api.core.v1.Node",
        Logic::of::<Node>(),
    )
};

/// The effects of taints, in the order in which Kubernetes names them.
pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
const POD_CIDRS_STAY: &str = "node updates may not change podCIDR except from \"\" to valid";
const PROVIDER_STAYS: &str = "node updates may not change providerID except from \"\" to valid";

impl ApiObject for Node {
    fn set_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            merge_pod_cidrs(&mut spec.pod_cidr, &mut spec.pod_cidrs);
        }
        if let Some(status) = &mut self.status {
            round_up(&mut status.capacity);
            if status.allocatable.is_none() {
                status.allocatable.clone_from(&status.capacity);
            }
            round_up(&mut status.allocatable);
        }
    }

    /// Configuration of kubelets through the API was taken out in 1.24.
    fn prepare_for_create(&mut self) {
        if let Some(spec) = &mut self.spec {
            spec.config_source = None;
            spec.pod_preemption_policy = None;
        }
        if let Some(status) = &mut self.status {
            status.config = None;
        }
    }

    fn prepare_for_update(&mut self, old: &Node) {
        let Some(spec) = &mut self.spec else { return };
        let old = old.spec.as_ref();
        if old.is_none_or(|old| old.config_source.is_none()) {
            spec.config_source = None;
        }
        if old.is_none_or(|old| old.pod_preemption_policy.is_none()) {
            spec.pod_preemption_policy = None;
        }
    }

    fn prepare_for_status_update(&mut self, old: &Node) {
        if old.status.as_ref().is_none_or(|status| status.config.is_none())
            && let Some(status) = &mut self.status
        {
            status.config = None;
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_taints(self, errors);
        validate_resources(self, errors);
        let cidrs = pod_cidrs(self);
        let path = Path::new("spec").child("podCIDRs");
        for (at, cidr) in cidrs.iter().enumerate() {
            ip::validate_range(cidr, &[], &path.index(at), errors);
        }
        if cidrs.len() > 1 {
            let families: BTreeSet<bool> = cidrs.iter().map(|cidr| ip::is_v6_range(cidr)).collect();
            if families.len() < 2 || cidrs.len() > 2 {
                let why = "may specify no more than one CIDR for each IP family";
                errors.invalid(&path, &go::syntax("[]string", &cidrs), why);
            }
        }
    }

    fn validate_update(&self, old: &Node, errors: &mut Errors) {
        self.validate(errors);
        self.validate_status_update(old, errors);
    }

    fn validate_status_update(&self, old: &Node, errors: &mut Errors) {
        validate_resources(self, errors);
        validate_addresses(self, errors);
        let spec = Path::new("spec");
        let (cidrs, old_cidrs) = (pod_cidrs(self), pod_cidrs(old));
        if !old_cidrs.is_empty() {
            let changes = if cidrs.len() == old_cidrs.len() {
                cidrs
                    .iter()
                    .zip(old_cidrs)
                    .filter(|(new, old)| new != old)
                    .count()
            } else {
                1
            };
            for _ in 0..changes {
                errors.forbidden(&spec.child("podCIDRs"), POD_CIDRS_STAY);
            }
        }
        let own = |node: &Node, of: fn(&k8s_openapi::api::core::v1::NodeSpec) -> &Option<String>| {
            node.spec
                .as_ref()
                .map_or_else(String::new, |spec| text(of(spec)).to_owned())
        };
        let provider = own(old, |spec| &spec.provider_id);
        if !provider.is_empty() && provider != own(self, |spec| &spec.provider_id) {
            errors.forbidden(&spec.child("providerID"), PROVIDER_STAYS);
        }
        validate_taints(self, errors);
        if own(self, |spec| &spec.external_id) != own(old, |spec| &spec.external_id) {
            errors.forbidden(&spec.child("externalID"), "may not be updated");
        }
    }

    fn warnings(&self, _old: Option<&Node>) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(spec) = &self.spec else { return warnings };
        if spec.config_source.is_some() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(&spec.external_id).is_empty() {
            let warning = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
            warnings.push(warning.to_owned());
        }
        let path = Path::new("spec").child("podCIDRs");
        for (at, cidr) in pod_cidrs(self).iter().enumerate() {
            warnings.extend(ip::range_warnings(cidr, &path.index(at)));
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let info = status.node_info.unwrap_or_default();
        let address = |ty: &str| -> Value {
            let addresses = status.addresses.as_deref().unwrap_or_default();
            let found = addresses.iter().find(|address| address.type_ == ty);
            found.map_or("<none>", |address| &address.address).into()
        };
        let known = |value: &str| -> Value { if value.is_empty() { "<unknown>" } else { value }.into() };
        vec![
            name_cell(&self.metadata),
            status_cell(self).into(),
            list_or_none(&roles(self)),
            age(self.metadata.creation_timestamp.as_ref(), now),
            info.kubelet_version.clone().into(),
            address("InternalIP"),
            address("ExternalIP"),
            known(&info.os_image),
            known(&info.kernel_version),
            known(&info.container_runtime_version),
        ]
    }
}

/// `podCIDR` is the first of `podCIDRs`; where they differ, it counts.
fn merge_pod_cidrs(one: &mut Option<String>, all: &mut Option<Vec<String>>) {
    let first = text(one);
    let listed = all.as_deref().unwrap_or_default();
    if !first.is_empty() && listed.first().is_none_or(|listed| listed != first) {
        *all = Some(vec![first.to_owned()]);
    } else if let Some(listed) = listed.first() {
        *one = Some(listed.clone());
    }
}

fn pod_cidrs(node: &Node) -> &[String] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.pod_cidrs.as_deref())
        .unwrap_or_default()
}

fn validate_taints(node: &Node, errors: &mut Errors) {
    let taints = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    // Kubernetes has the path wrong here.
    let path = Path::new("metadata").child("taints");
    for (at, taint) in taints.iter().enumerate() {
        let path = path.index(at);
        errors.invalid_each(&path.child("key"), &taint.key, names::qualified_name(&taint.key));
        let (value, objections) = (text(&taint.value), names::label_value(text(&taint.value)));
        if !objections.is_empty() {
            errors.invalid(&path.child("value"), value, &objections.join(";"));
        }
        match taint.effect.as_str() {
            "" => errors.required(&path.child("effect"), ""),
            effect => errors.one_of(&path.child("effect"), effect, &TAINT_EFFECTS),
        }
        let same = |other: &Taint| (&other.key, &other.effect) == (&taint.key, &taint.effect);
        if taints[..at].iter().any(same) {
            let why = "taints must be unique by key and effect pair";
            errors.duplicate_because(&path, &go::syntax("core.Taint", taint), why);
        }
    }
}

fn validate_resources(node: &Node, errors: &mut Errors) {
    let Some(status) = &node.status else { return };
    for (field, list) in [
        ("capacity", &status.capacity),
        ("allocatable", &status.allocatable),
    ] {
        for (name, quantity) in list.iter().flatten() {
            validate_amount(
                name,
                quantity,
                &Path::new("status").child(field).child(name),
                errors,
            );
        }
    }
}

fn validate_addresses(node: &Node, errors: &mut Errors) {
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    for (at, address) in addresses.iter().enumerate() {
        let same = |other: &NodeAddress| (&other.type_, &other.address) == (&address.type_, &address.address);
        if addresses[..at].iter().any(same) {
            let path = Path::new("status").child("addresses").index(at);
            errors.duplicate(&path, &go::syntax("core.NodeAddress", address));
        }
    }
}

fn status_cell(node: &Node) -> String {
    let mut conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.rfind(|condition| condition.type_ == "Ready");
    let readiness = match ready {
        None => "Unknown",
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let unschedulable = node
        .spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or(false);
    if unschedulable {
        format!("{readiness},SchedulingDisabled")
    } else {
        readiness.to_owned()
    }
}

fn roles(node: &Node) -> Vec<String> {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<String> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE_LABEL => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .map(str::to_owned)
        .collect();
    roles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(value: Value) -> Node {
        let mut node: Node = serde_json::from_value(value).expect("a node");
        node.set_defaults();
        node
    }

    #[test]
    fn taints_differ_in_key_and_effect() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let mut errors = Errors::new();
        node(json!({"spec": {"taints": [taint, taint, {"key": "b", "effect": "Sometimes"}]}}))
            .validate(&mut errors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "metadata.taints[1]: Duplicate value: core.Taint{Key:\"a\", Value:\"\", Effect:\"NoSchedule\", \
                 TimeAdded:<nil>}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Unsupported value: \"Sometimes\": supported values: \
                 \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
    }

    #[test]
    fn ranges_of_pods_stay() {
        let old = node(json!({"spec": {"podCIDR": "10.0.0.0/24"}}));
        assert_eq!(pod_cidrs(&old), ["10.0.0.0/24"]);
        let mut errors = Errors::new();
        node(json!({"spec": {"podCIDR": "10.0.1.0/24"}})).validate_update(&old, &mut errors);
        assert_eq!(
            errors.summary(),
            format!("spec.podCIDRs: Forbidden: {POD_CIDRS_STAY}")
        );
    }

    #[test]
    fn the_row_tells_readiness_and_roles() {
        let node = node(json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "db"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "False"}],
                       "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        }));
        let row = node.row(Timestamp::UNIX_EPOCH);
        assert_eq!(
            Value::Array(row),
            json!([
                "n1",
                "NotReady,SchedulingDisabled",
                "control-plane,db",
                "<unknown>",
                "",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ])
        );
    }
}
