//! What to warn of in pods and templates.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodAffinityTerm, PodSpec, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations::{APP_ARMOR, SECCOMP_CONTAINER, SECCOMP_POD, app_armor_profile};
use super::visit;
use crate::error::{Path, quote};
use crate::kinds::resources::{ResourceList, amount};
use crate::kinds::{ip, node_selector, persistent_volume_claim, text};

const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const USE_SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const USE_APP_ARMOR_FIELD: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";

/// Warnings of a spec with its metadata; `path` is where both stand, the root for a pod.
pub(crate) fn of_spec(metadata: &ObjectMeta, spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Warnings {
        path,
        list: Vec::new(),
    };
    warnings.placement(spec);
    warnings.annotations(metadata);
    warnings.volumes(spec);
    warnings.repeats(spec);
    warnings.containers(metadata, spec);
    warnings.ports(spec);
    warnings.rest(spec);
    warnings.list
}

struct Warnings<'w> {
    path: &'w Path,
    list: Vec<String>,
}

impl Warnings<'_> {
    fn add(&mut self, path: &Path, why: impl std::fmt::Display) {
        self.list.push(format!("{path}: {why}"));
    }

    fn annotation(&self, key: &str) -> Path {
        self.path.child("metadata").child("annotations").key(key)
    }

    fn placement(&mut self, spec: &PodSpec) {
        let path = self.path.child("spec");
        for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
            if let Some(why) = node_selector::replaced_label(key) {
                self.add(&path.child("nodeSelector").key(key), why);
            }
        }
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        if let Some(affinity) = affinity {
            let path = path.child("affinity").child("nodeAffinity");
            let required = affinity
                .required_during_scheduling_ignored_during_execution
                .iter();
            let at = path
                .child("requiredDuringSchedulingIgnoredDuringExecution")
                .child("nodeSelectorTerms");
            for (index, term) in required
                .flat_map(|selector| &selector.node_selector_terms)
                .enumerate()
            {
                self.list
                    .extend(node_selector::term_warnings(term, false, &at.index(index)));
            }
            let preferred = affinity
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            let at = path.child("preferredDuringSchedulingIgnoredDuringExecution");
            for (index, term) in preferred.enumerate() {
                let path = at.index(index).child("preference");
                self.list
                    .extend(node_selector::term_warnings(&term.preference, true, &path));
            }
        }
        for (at, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
            let path = path.child("topologySpreadConstraints").index(at);
            if let Some(why) = node_selector::replaced_label(&constraint.topology_key) {
                let key = &constraint.topology_key;
                self.add(&path.child("topologyKey"), format_args!("{key} is {why}"));
            }
            if constraint.label_selector.is_none() {
                self.add(&path.child("labelSelector"), NULL_SELECTOR);
            }
        }
    }

    fn annotations(&mut self, metadata: &ObjectMeta) {
        for (key, why) in ANNOTATIONS {
            if metadata
                .annotations
                .as_ref()
                .is_some_and(|annotations| annotations.contains_key(key))
            {
                self.add(&self.annotation(key), why);
            }
        }
    }

    fn volumes(&mut self, spec: &PodSpec) {
        for (at, volume) in spec.volumes.iter().flatten().enumerate() {
            let path = self.path.child("spec").child("volumes").index(at);
            for (field, is_set, why) in [
                (
                    "photonPersistentDisk",
                    volume.photon_persistent_disk.is_some(),
                    "deprecated in v1.11, non-functional in v1.16+",
                ),
                ("gitRepo", volume.git_repo.is_some(), "deprecated in v1.11"),
                (
                    "scaleIO",
                    volume.scale_io.is_some(),
                    "deprecated in v1.16, non-functional in v1.22+",
                ),
                (
                    "flocker",
                    volume.flocker.is_some(),
                    "deprecated in v1.22, non-functional in v1.25+",
                ),
                (
                    "storageOS",
                    volume.storageos.is_some(),
                    "deprecated in v1.22, non-functional in v1.25+",
                ),
                (
                    "quobyte",
                    volume.quobyte.is_some(),
                    "deprecated in v1.22, non-functional in v1.25+",
                ),
                (
                    "glusterfs",
                    volume.glusterfs.is_some(),
                    "deprecated in v1.25, non-functional in v1.26+",
                ),
            ] {
                if is_set {
                    self.add(&path.child(field), why);
                }
            }
            let template = volume
                .ephemeral
                .as_ref()
                .and_then(|source| source.volume_claim_template.as_ref());
            if let Some(template) = template {
                let path = path.child("ephemeral").child("volumeClaimTemplate").child("spec");
                self.list
                    .extend(persistent_volume_claim::spec_warnings(&template.spec, &path));
            }
            for (field, is_set) in [("cephfs", volume.cephfs.is_some()), ("rbd", volume.rbd.is_some())] {
                if is_set {
                    self.add(
                        &path.child(field),
                        "deprecated in v1.28, non-functional in v1.31+",
                    );
                }
            }
        }
    }

    fn repeats(&mut self, spec: &PodSpec) {
        let path = self.path.child("spec");
        let aliases = spec.host_aliases.as_deref().unwrap_or_default();
        for (at, alias) in aliases.iter().enumerate() {
            if aliases[..at].iter().any(|other| other.ip == alias.ip) {
                let path = path.child("hostAliases").index(at).child("ip");
                self.add(&path, format_args!("duplicate ip {}", quote(&alias.ip)));
            }
        }
        let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
        let at_name = |at: usize| path.child("imagePullSecrets").index(at).child("name");
        for (at, secret) in secrets.iter().enumerate() {
            if secrets[..at].iter().any(|other| other.name == secret.name) {
                self.add(
                    &at_name(at),
                    format_args!("duplicate name {}", quote(&secret.name)),
                );
            }
        }
        for (at, _) in secrets
            .iter()
            .enumerate()
            .filter(|(_, secret)| secret.name.is_empty())
        {
            self.add(&at_name(at), "invalid empty name \"\"");
        }
        self.fractions(spec.overhead.as_ref(), &path.child("overhead"), "memory");
        self.fractions(
            spec.overhead.as_ref(),
            &path.child("overhead"),
            "ephemeral-storage",
        );
    }

    /// Parts of bytes.
    fn fractions(&mut self, list: Option<&ResourceList>, path: &Path, name: &str) {
        if let Some(written) = list.and_then(|list| list.get(name))
            && amount(written).milli() % 1000 != 0
        {
            let why = format!(
                "fractional byte value {} is invalid, must be an integer",
                quote(&written.0)
            );
            self.add(&path.key(name), why);
        }
    }

    fn containers(&mut self, metadata: &ObjectMeta, spec: &PodSpec) {
        let none = BTreeMap::new();
        let annotations = metadata.annotations.as_ref().unwrap_or(&none);
        let context = spec.security_context.as_ref();
        let has_seccomp = context.is_some_and(|context| context.seccomp_profile.is_some());
        if !has_seccomp && annotations.contains_key(SECCOMP_POD) {
            self.add(&self.annotation(SECCOMP_POD), USE_SECCOMP_FIELD);
        }
        let of_pod = context.and_then(|context| context.app_armor_profile.as_ref());
        let is_template = self.path.to_string() != Path::root().to_string();
        visit::each(spec, &self.path.child("spec"), |container, path| {
            let own = container.security_context.as_ref();
            let key = format!("{SECCOMP_CONTAINER}{}", container.name);
            if own.is_none_or(|own| own.seccomp_profile.is_none()) && annotations.contains_key(&key) {
                self.add(&self.annotation(&key), USE_SECCOMP_FIELD);
            }
            let key = format!("{APP_ARMOR}{}", container.name);
            if let Some(annotation) = annotations.get(&key)
                && is_template
                && own.is_none_or(|own| own.app_armor_profile.is_none())
                && (of_pod.is_none() || of_pod != app_armor_profile(annotation).as_ref())
            {
                self.add(&self.annotation(&key), USE_APP_ARMOR_FIELD);
            }
            if let Some(resources) = &container.resources {
                let path = path.child("resources");
                for name in ["memory", "ephemeral-storage"] {
                    self.fractions(resources.limits.as_ref(), &path.child("limits"), name);
                    self.fractions(resources.requests.as_ref(), &path.child("requests"), name);
                }
            }
            self.hidden_variables(container, path);
        });
    }

    /// A variable that is set twice, and the second time not from the first.
    fn hidden_variables(&mut self, container: &Container, path: &Path) {
        let variables = container.env.as_deref().unwrap_or_default();
        let mut seen = HashSet::new();
        for (at, variable) in variables.iter().enumerate() {
            let name = variable.name.as_str();
            let is_set_before = !seen.insert(name);
            let reference = format!("$({name})");
            let value = text(&variable.value);
            let builds_on_it =
                variable.value_from.is_none() && value != reference && value.contains(&reference);
            if !builds_on_it && is_set_before {
                let why = format!("hides previous definition of {}", quote(name));
                self.add(&path.child("env").index(at), why);
            }
        }
    }

    fn ports(&mut self, spec: &PodSpec) {
        // Only ports of equal number and protocol can overlap; there may be thousands of others.
        let mut all: HashMap<(i32, String), Vec<(String, ContainerPort)>> = HashMap::new();
        let mut named: Vec<(String, String)> = Vec::new();
        visit::each(spec, &self.path.child("spec"), |container, path| {
            for (at, port) in container.ports.iter().flatten().enumerate() {
                let path = path.child("ports").index(at);
                if !text(&port.host_ip).is_empty() && port.host_port.unwrap_or(0) == 0 {
                    self.add(
                        &path,
                        format_args!("hostIP set without hostPort: {}", go_port(port)),
                    );
                }
                let key = (port.container_port, text(&port.protocol).to_owned());
                let alike = all.entry(key).or_default();
                for (other_path, other) in alike.iter() {
                    if let Some(how) = overlap(port, other) {
                        self.add(&path, format_args!("{how} port definition with {other_path}"));
                    }
                }
                alike.push((path.to_string(), port.clone()));
                if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
                    named.push((path.to_string(), name.clone()));
                }
            }
        });
        let mut firsts: HashMap<&str, &str> = HashMap::new();
        let mut names: Vec<String> = Vec::new();
        for (path, name) in &named {
            match firsts.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(path);
                }
                Entry::Occupied(first) => {
                    let first = first.get();
                    names.push(format!(
                        "{path}: duplicate port name {} with {first}, services and probes that select ports by \
                         name will use {first}",
                        quote(name)
                    ));
                }
            }
        }
        self.list.append(&mut names);
    }

    fn rest(&mut self, spec: &PodSpec) {
        let path = self.path.child("spec");
        if spec
            .termination_grace_period_seconds
            .is_some_and(|period| period < 0)
        {
            let why = "must be >= 0; negative values are invalid and will be treated as 1";
            self.add(&path.child("terminationGracePeriodSeconds"), why);
        }
        if let Some(affinity) = &spec.affinity {
            let at = path.child("affinity");
            if let Some(near) = &affinity.pod_affinity {
                self.pod_terms(
                    near.required_during_scheduling_ignored_during_execution
                        .as_deref(),
                    near.preferred_during_scheduling_ignored_during_execution
                        .as_deref(),
                    &at.child("podAffinity"),
                );
            }
            if let Some(far) = &affinity.pod_anti_affinity {
                self.pod_terms(
                    far.required_during_scheduling_ignored_during_execution.as_deref(),
                    far.preferred_during_scheduling_ignored_during_execution
                        .as_deref(),
                    &at.child("podAntiAffinity"),
                );
            }
        }
        let servers = spec
            .dns_config
            .iter()
            .flat_map(|config| config.nameservers.iter().flatten());
        for (at, server) in servers.enumerate() {
            let path = path.child("dnsConfig").child("nameservers").index(at);
            self.list.extend(ip::warning(server, &path));
        }
        for (at, alias) in spec.host_aliases.iter().flatten().enumerate() {
            self.list.extend(ip::warning(
                &alias.ip,
                &path.child("hostAliases").index(at).child("ip"),
            ));
        }
    }

    fn pod_terms(
        &mut self,
        required: Option<&[PodAffinityTerm]>,
        preferred: Option<&[WeightedPodAffinityTerm]>,
        path: &Path,
    ) {
        let at = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        for (index, term) in required.unwrap_or_default().iter().enumerate() {
            if term.label_selector.is_none() {
                self.add(&at.index(index).child("labelSelector"), NULL_SELECTOR);
            }
        }
        let at = path.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (index, weighted) in preferred.unwrap_or_default().iter().enumerate() {
            if weighted.pod_affinity_term.label_selector.is_none() {
                let path = at.index(index).child("podAffinityTerm").child("labelSelector");
                self.add(&path, NULL_SELECTOR);
            }
        }
    }
}

/// How two ports get in each other's way.
fn overlap(port: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let host = |port: &ContainerPort| (text(&port.host_ip).to_owned(), port.host_port.unwrap_or(0));
    if (port.container_port, text(&port.protocol)) != (other.container_port, text(&other.protocol)) {
        return None;
    }
    let ((ip, number), (other_ip, other_number)) = (host(port), host(other));
    if (&ip, number) == (&other_ip, other_number) {
        Some("duplicate")
    } else if number == 0 || other_number == 0 {
        Some("overlapping")
    } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// A port as Go shows it with names.
fn go_port(port: &ContainerPort) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(&port.name),
        port.host_port.unwrap_or(0),
        port.container_port,
        text(&port.protocol),
        text(&port.host_ip)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn oddities_are_warned_of() {
        let spec = json!({
            "nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}],
            "containers": [
                {"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "$(X)2"}, {"name": "X", "value": "3"}],
                 "resources": {"limits": {"memory": "100m"}},
                 "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]},
            ],
        });
        let spec = serde_json::from_value(spec).expect("a spec");
        assert_eq!(
            of_spec(&ObjectMeta::default(), &spec, &Path::root()),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.imagePullSecrets[2].name: invalid empty name \"\"",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[2]: hides previous definition of \"X\"",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ]
        );
    }
}
