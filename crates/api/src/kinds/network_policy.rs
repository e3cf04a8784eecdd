//! NetworkPolicy (networking.k8s.io/v1): what may reach pods, and what they may reach. Kept and
//! served; the network does not enforce it yet.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::workload::selector_cell;
use super::{ip, name_cell};
use crate::error::{Errors, Path};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck};
use crate::selector::{check_label_selector, validate_label_selector};
use crate::table::age;
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["netpol"],
    generation: Generation::Spec,
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::new("Pod-Selector", "which pods it is for"),
        Column::AGE,
    ],
    caveat: Some("NetworkPolicies are not enforced by this cluster's network: all pods can reach each other"),
    ..Kind::new(
        ("networking.k8s.io", "v1", "NetworkPolicy"),
        ("networkpolicies", "networkpolicy"),
        "io.k8s.api.networking.v1.NetworkPolicy",
        Logic::of::<NetworkPolicy>(),
    )
};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// What an update may keep as it is.
#[derive(Default)]
struct Options<'p> {
    label_values: bool,
    ranges: Vec<&'p str>,
}

/// One direction of a policy: the fields of its rules, and the rules.
struct Rule<'p> {
    path: Path,
    ports: &'p [NetworkPolicyPort],
    peers_field: &'static str,
    peers: &'p [NetworkPolicyPeer],
}

impl Rule<'_> {
    fn peers_path(&self, at: usize) -> Path {
        self.path.child(self.peers_field).index(at)
    }
}

impl ApiObject for NetworkPolicy {
    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let egress = spec.egress.iter_mut().flatten().map(|rule| &mut rule.ports);
        let ingress = spec.ingress.iter_mut().flatten().map(|rule| &mut rule.ports);
        for port in egress.chain(ingress).flatten().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let types = TYPES.iter().take(1 + usize::from(has_egress));
            spec.policy_types = Some(types.map(|of| (*of).to_owned()).collect());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_spec(spec, &Options::default(), errors);
        }
    }

    fn validate_update(&self, old: &NetworkPolicy, errors: &mut Errors) {
        let mut options = Options::default();
        if let Some(old) = &old.spec {
            let selector = old.pod_selector.clone().unwrap_or_default();
            let mut objections = Errors::new();
            validate_label_selector(&selector, &Path::root(), &mut objections);
            options.label_values = !objections.is_empty();
            let blocks = rules(old)
                .into_iter()
                .flat_map(|rule| rule.peers.iter().filter_map(|peer| peer.ip_block.as_ref()));
            for block in blocks {
                options.ranges.push(&block.cidr);
                options
                    .ranges
                    .extend(block.except.iter().flatten().map(String::as_str));
            }
        }
        if let Some(spec) = &self.spec {
            // Kubernetes checks, and tells, it twice.
            validate_spec(spec, &options, errors);
            validate_spec(spec, &options, errors);
        }
    }

    fn warnings(&self, _old: Option<&NetworkPolicy>) -> Vec<String> {
        let mut warnings = Vec::new();
        for rule in self.spec.iter().flat_map(rules) {
            for (at, peer) in rule.peers.iter().enumerate() {
                let Some(block) = &peer.ip_block else { continue };
                let path = rule.peers_path(at).child("ipBlock");
                warnings.extend(ip::range_warnings(&block.cidr, &path.child("cidr")));
                for (at, except) in block.except.iter().flatten().enumerate() {
                    let path = path.child("except").index(at);
                    warnings.extend(ip::range_warnings(except, &path));
                }
            }
        }
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let selector = self.spec.as_ref().and_then(|spec| spec.pod_selector.clone());
        vec![
            name_cell(&self.metadata),
            selector_cell(&selector.unwrap_or_default()),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

/// The rules of both directions, in the order in which they are checked.
fn rules(spec: &NetworkPolicySpec) -> Vec<Rule<'_>> {
    let path = |field: &str, at| Path::new("spec").child(field).index(at);
    let ingress = spec.ingress.iter().flatten().enumerate();
    let ingress = ingress.map(|(at, rule)| Rule {
        path: path("ingress", at),
        ports: rule.ports.as_deref().unwrap_or_default(),
        peers_field: "from",
        peers: rule.from.as_deref().unwrap_or_default(),
    });
    let egress = spec.egress.iter().flatten().enumerate();
    let egress = egress.map(|(at, rule)| Rule {
        path: path("egress", at),
        ports: rule.ports.as_deref().unwrap_or_default(),
        peers_field: "to",
        peers: rule.to.as_deref().unwrap_or_default(),
    });
    ingress.chain(egress).collect()
}

fn validate_spec(spec: &NetworkPolicySpec, options: &Options<'_>, errors: &mut Errors) {
    let path = Path::new("spec");
    if let Some(selector) = &spec.pod_selector {
        check_label_selector(selector, options.label_values, &path.child("podSelector"), errors);
    }
    for rule in rules(spec) {
        for (at, port) in rule.ports.iter().enumerate() {
            validate_port(port, &rule.path.child("ports").index(at), errors);
        }
        for (at, peer) in rule.peers.iter().enumerate() {
            validate_peer(peer, options, &rule.peers_path(at), errors);
        }
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = path.child("policyTypes");
    if types.len() > TYPES.len() {
        let shown = go::syntax("[]networking.PolicyType", &types);
        errors.invalid(&path, &shown, "may not specify more than two policyTypes");
        return;
    }
    for (at, of) in types.iter().enumerate() {
        errors.one_of(&path.index(at), of, &TYPES);
    }
}

fn validate_port(port: &NetworkPolicyPort, path: &Path, errors: &mut Errors) {
    if let Some(protocol) = &port.protocol {
        errors.one_of(&path.child("protocol"), protocol, &PROTOCOLS);
    }
    let (port_path, end_path) = (path.child("port"), path.child("endPort"));
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            errors.invalid_each(&port_path, number, names::port_number((*number).into()));
            if let Some(end) = end {
                if end < *number {
                    errors.invalid(&end_path, &end, "must be greater than or equal to `port`");
                }
                errors.invalid_each(&end_path, &end, names::port_number(end.into()));
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                let why = "may not be specified when `port` is non-numeric";
                errors.invalid(&end_path, &end, why);
            }
            errors.invalid_each(&port_path, name, names::port_name(name));
        }
        (None, Some(end)) => {
            let why = "may not be specified when `port` is not specified";
            errors.invalid(&end_path, &end, why);
        }
        (None, None) => {}
    }
}

fn validate_peer(peer: &NetworkPolicyPeer, options: &Options<'_>, path: &Path, errors: &mut Errors) {
    let mut others = false;
    for (field, selector) in [
        ("podSelector", &peer.pod_selector),
        ("namespaceSelector", &peer.namespace_selector),
    ] {
        if let Some(selector) = selector {
            others = true;
            check_label_selector(selector, options.label_values, &path.child(field), errors);
        }
    }
    match &peer.ip_block {
        Some(block) => {
            validate_block(block, &options.ranges, &path.child("ipBlock"), errors);
            if others {
                errors.forbidden(path, "may not specify both ipBlock and another peer");
            }
        }
        None if !others => errors.required(path, "must specify a peer"),
        None => {}
    }
}

fn validate_block(block: &IPBlock, known: &[&str], path: &Path, errors: &mut Errors) {
    if block.cidr.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    ip::validate_range(&block.cidr, known, &path.child("cidr"), errors);
    if !ip::is_range(&block.cidr) {
        return;
    }
    for (at, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(at);
        ip::validate_range(except, known, &path, errors);
        if ip::is_within(except, &block.cidr) == Some(false) {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: Value) -> NetworkPolicy {
        let mut policy: NetworkPolicy = serde_json::from_value(json!({"spec": spec})).expect("a policy");
        policy.set_defaults();
        policy
    }

    #[test]
    fn a_policy_is_of_the_directions_that_it_has_rules_for() {
        for (spec, expected) in [
            (json!({}), &["Ingress"][..]),
            (json!({"ingress": [{}]}), &["Ingress"]),
            (json!({"egress": [{}]}), &["Ingress", "Egress"]),
            (json!({"egress": [{}], "policyTypes": ["Egress"]}), &["Egress"]),
        ] {
            let types = policy(spec.clone()).spec.and_then(|spec| spec.policy_types);
            assert_eq!(types.unwrap_or_default(), expected, "{spec}");
        }
    }

    #[test]
    fn ports_and_peers_are_checked() {
        let block = |cidr: &str, except: &[&str]| json!({"ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": except}}]}]});
        for (spec, expected) in [
            (block("10.0.0.0/8", &["10.1.0.0/16"]), ""),
            (
                block("10.0.0.0/8", &["11.0.0.0/16"]),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                block("10.0.0.0/8", &["10.0.0.0/8"]),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                json!({"egress": [{"to": [{}]}]}),
                "spec.egress[0].to[0]: Required value: must specify a peer",
            ),
            (
                json!({"egress": [{"ports": [{"port": "http", "endPort": 90}]}]}),
                "spec.egress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
            ),
            (
                json!({"egress": [{"ports": [{"port": 100, "endPort": 90, "protocol": "ICMP"}]}]}),
                "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \
                 \"SCTP\"spec.egress[0].ports[0].endPort: Invalid value: 90: must be greater than or equal to `port`",
            ),
            (
                json!({"policyTypes": ["Both"]}),
                "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\"",
            ),
        ] {
            let mut errors = Errors::new();
            policy(spec.clone()).validate(&mut errors);
            let found: String = errors.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn a_range_that_was_there_may_stay() {
        let old = policy(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]}));
        let mut errors = Errors::new();
        old.validate_update(&old, &mut errors);
        assert!(errors.is_empty(), "{}", errors.summary());
        old.validate(&mut errors);
        assert_eq!(errors.len(), 1, "{}", errors.summary());
    }
}
