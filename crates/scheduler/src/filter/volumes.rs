//! Filters on a pod's claims: bound ones must be usable on the node; those that wait for their first
//! consumer must find a volume there, or have one made ("Volume Binding Mode").

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use stead_informer::Key;
use stead_informer::semantics::volumes::{
    Finder, NO_PROVISIONER, SELECTED_NODE, WAIT_FOR_FIRST_CONSUMER, annotation, claim_class, find_match,
    fits_node, is_fully_bound, requested, volume_name,
};

use super::Rejection;
use crate::cluster::Cluster;
use crate::pod::{Labels, PodInfo};

const ONE_POD_ONLY: &str = "ReadWriteOncePod";
/// Labels of a volume that say where it is; the former names too.
const PLACES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Claims, volumes and classes as the caches have them, and what was decided ahead of them.
pub(crate) struct Storage<'s> {
    pub(crate) claim: &'s dyn Fn(&Key) -> Option<Arc<PersistentVolumeClaim>>,
    pub(crate) volume: &'s dyn Fn(&str) -> Option<Arc<PersistentVolume>>,
    pub(crate) volumes: &'s dyn Fn() -> Vec<Arc<PersistentVolume>>,
    pub(crate) class: &'s dyn Fn(&str) -> Option<Arc<StorageClass>>,
    pub(crate) assumed: &'s Assumed,
}

/// What was decided about claims and no cache shows yet.
#[derive(Debug, Default)]
pub(crate) struct Assumed {
    /// Volumes that a claim is to have.
    pub(crate) volumes: HashMap<String, Key>,
    /// Nodes that a claim's volume is to be made on, and for how many pods.
    pub(crate) nodes: HashMap<Key, (String, usize)>,
}

impl Assumed {
    /// Adds what a pod's placement decides.
    pub(crate) fn add(&mut self, bindings: &Bindings, node: &str) {
        for (claim, volume) in &bindings.found {
            let name = volume.metadata.name.clone().unwrap_or_default();
            self.volumes.insert(name, Key::of(&**claim));
        }
        for claim in &bindings.to_make {
            let entry = self.nodes.entry(Key::of(&**claim));
            entry.or_insert_with(|| (node.to_owned(), 0)).1 += 1;
        }
    }

    /// Takes that back, or drops it when the caches show it.
    pub(crate) fn remove(&mut self, bindings: &Bindings) {
        for (claim, volume) in &bindings.found {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            if self.volumes.get(name) == Some(&Key::of(&**claim)) {
                self.volumes.remove(name);
            }
        }
        for claim in &bindings.to_make {
            let key = Key::of(&**claim);
            if let Some((_, pods)) = self.nodes.get_mut(&key) {
                *pods -= 1;
                if *pods == 0 {
                    self.nodes.remove(&key);
                }
            }
        }
    }
}

/// What is to be done about a pod's claims before it can be bound.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bindings {
    /// All of the pod's claims; they must be bound by then.
    pub(crate) claims: Vec<Key>,
    /// Claims that get a volume that is there.
    pub(crate) found: Vec<(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>)>,
    /// Claims that get a volume made on the node.
    pub(crate) to_make: Vec<Arc<PersistentVolumeClaim>>,
}

/// The claims of a pod that can be placed as far as they are concerned.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    all: Vec<Arc<PersistentVolumeClaim>>,
    bound: Vec<Arc<PersistentVolumeClaim>>,
    waiting: Vec<(Arc<PersistentVolumeClaim>, Arc<StorageClass>)>,
}

/// Why no node at all will do for a pod's claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unready {
    /// There is no such claim, as far as the cache knows.
    Missing(String),
    /// The claim of an ephemeral volume is not there yet.
    AwaitingEphemeral(String),
    /// The claim has the name of the pod's ephemeral volume but is not its.
    ForeignEphemeral(String),
    /// The claim is on its way out.
    Deleting(String),
    /// The claim's volume is gone.
    Lost {
        /// The claim.
        claim: String,
        /// What it was bound to.
        volume: String,
    },
    /// The claim waits for the binder, not for us.
    Unbound,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unready::Missing(claim) => write!(f, "persistentvolumeclaim \"{claim}\" not found"),
            Unready::AwaitingEphemeral(claim) => write!(
                f,
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{claim}\""
            ),
            Unready::ForeignEphemeral(claim) => {
                write!(f, "PVC {claim} was not created for the pod (pod is not owner)")
            }
            Unready::Deleting(claim) => write!(f, "persistentvolumeclaim \"{claim}\" is being deleted"),
            Unready::Lost { claim, volume } => write!(
                f,
                "persistentvolumeclaim \"{claim}\" bound to non-existent persistentvolume \"{volume}\""
            ),
            Unready::Unbound => f.write_str("pod has unbound immediate PersistentVolumeClaims"),
        }
    }
}

/// The name of the claim that a volume of a pod is, and whether it is made for the pod.
fn claim_name(pod: &PodInfo, volume: &Volume) -> Option<(String, bool)> {
    if volume.ephemeral.is_some() {
        return Some((format!("{}-{}", pod.key.name, volume.name), true));
    }
    let source = volume.persistent_volume_claim.as_ref()?;
    Some((source.claim_name.clone(), false))
}

fn claim_names(pod: &PodInfo) -> impl Iterator<Item = (String, bool)> {
    let volumes = pod
        .spec()
        .into_iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(pod, volume))
}

/// Looks up a pod's claims.
pub(crate) fn claims(pod: &PodInfo, storage: &Storage<'_>) -> Result<Claims, Unready> {
    let mut claims = Claims::default();
    let mut is_unbound = false;
    for (name, is_ephemeral) in claim_names(pod) {
        let Some(claim) = (storage.claim)(&Key::new(pod.key.namespace.as_str(), name.as_str())) else {
            return Err(if is_ephemeral {
                Unready::AwaitingEphemeral(name)
            } else {
                Unready::Missing(name)
            });
        };
        let owners = claim.metadata.owner_references.iter().flatten();
        if is_ephemeral && !owners.into_iter().any(|owner| owner.uid == pod.uid) {
            return Err(Unready::ForeignEphemeral(name));
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = volume_name(&claim).unwrap_or_default().to_owned();
            return Err(Unready::Lost { claim: name, volume });
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(Unready::Deleting(name));
        }
        if claims
            .all
            .iter()
            .any(|known| known.metadata.uid == claim.metadata.uid)
        {
            continue;
        }
        claims.all.push(Arc::clone(&claim));
        if is_fully_bound(&claim) {
            claims.bound.push(claim);
            continue;
        }
        let class = claim_class(&claim).and_then(|name| (storage.class)(name));
        let class =
            class.filter(|class| class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER));
        match class {
            Some(class) if volume_name(&claim).is_none() => claims.waiting.push((claim, class)),
            // One that is missing or leaving is worth more to know.
            _ => is_unbound = true,
        }
    }
    if is_unbound {
        return Err(Unready::Unbound);
    }
    // The smallest first, so that it does not take what only fits a larger one.
    claims.waiting.sort_by_key(|(claim, _)| requested(claim));
    Ok(claims)
}

impl Claims {
    /// Whether another pod has one of the claims for itself.
    pub(crate) fn check_use(&self, pod: &PodInfo, cluster: &Cluster) -> Result<(), Rejection> {
        let exclusive = |claim: &&Arc<PersistentVolumeClaim>| {
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
            modes.unwrap_or_default().iter().any(|mode| mode == ONE_POD_ONLY)
        };
        for claim in self.all.iter().filter(exclusive) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let mut others = cluster.nodes().flat_map(|(_, state)| state.pods.values());
            let is_used = others.any(|other| {
                other.key.namespace == pod.key.namespace
                    && other.uid != pod.uid
                    && claim_names(other).any(|(other, _)| other == name)
            });
            if is_used {
                return Err(Rejection::ClaimInUse);
            }
        }
        Ok(())
    }

    /// What is to be done so that the claims can be used on a node.
    pub(crate) fn check(
        &self,
        node: &Node,
        cluster: &Cluster,
        storage: &Storage<'_>,
    ) -> Result<Bindings, Rejection> {
        let mut bindings = Bindings {
            claims: self.all.iter().map(|claim| Key::of(&**claim)).collect(),
            ..Bindings::default()
        };
        for claim in &self.bound {
            let Some(volume) = volume_name(claim).and_then(|name| (storage.volume)(name)) else {
                return Err(Rejection::VolumeGone);
            };
            if !fits_node(&volume, node) {
                return Err(Rejection::VolumeNode);
            }
            if !fits_zone(&volume, node) {
                return Err(Rejection::VolumeZone);
            }
        }
        if self.waiting.is_empty() {
            return Ok(bindings);
        }
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let volumes = (storage.volumes)();
        for (claim, class) in &self.waiting {
            match selected_node(claim, cluster, storage) {
                Some(selected) if selected != name => return Err(Rejection::NoVolume),
                Some(_) => {}
                None => {
                    let key = Key::of(&**claim);
                    let is_taken = |volume: &PersistentVolume| {
                        let name = volume.metadata.name.as_deref().unwrap_or_default();
                        let by_this = |(_, taken): &(_, Arc<PersistentVolume>)| {
                            taken.metadata.name.as_deref() == Some(name)
                        };
                        bindings.found.iter().any(by_this)
                            || storage
                                .assumed
                                .volumes
                                .get(name)
                                .is_some_and(|taker| *taker != key)
                    };
                    let found = find_match(claim, &volumes, Finder::Scheduler(node), is_taken);
                    if let Some(volume) = found {
                        bindings.found.push((Arc::clone(claim), Arc::clone(volume)));
                        continue;
                    }
                }
            }
            if !can_make(class, node) {
                return Err(Rejection::NoVolume);
            }
            bindings.to_make.push(Arc::clone(claim));
        }
        Ok(bindings)
    }
}

/// The node that a claim's volume is being made on. A node that is gone makes none.
fn selected_node(claim: &PersistentVolumeClaim, cluster: &Cluster, storage: &Storage<'_>) -> Option<String> {
    let assumed = storage.assumed.nodes.get(&Key::of(claim));
    let selected = assumed
        .map(|(node, _)| node.as_str())
        .or_else(|| annotation(&claim.metadata, SELECTED_NODE))?;
    cluster.node(selected).map(|_| selected.to_owned())
}

/// Whether volumes of a class can be made on a node.
fn can_make(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let allows = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        term.match_label_expressions.iter().flatten().all(|wanted| {
            let found = labels(node).and_then(|labels| labels.get(&wanted.key));
            found.is_some_and(|found| wanted.values.contains(found))
        })
    };
    !class.provisioner.is_empty()
        && class.provisioner != NO_PROVISIONER
        && (terms.is_empty() || terms.iter().any(allows))
}

/// Whether a volume's labels put it where the node is. A node without such labels is anywhere.
fn fits_zone(volume: &PersistentVolume, node: &Node) -> bool {
    let Some(node) = labels(node).filter(|labels| PLACES.iter().any(|key| labels.contains_key(*key))) else {
        return true;
    };
    let wanted = volume.metadata.labels.iter().flatten();
    wanted
        .filter(|(key, _)| PLACES.contains(&key.as_str()))
        .all(|(key, value)| {
            node.get(key)
                .is_some_and(|own| value.split("__").any(|one| one == own))
        })
}

fn labels(node: &Node) -> Option<&Labels> {
    node.metadata.labels.as_ref()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};
    use stead_informer::semantics::volumes::BIND_COMPLETED;

    use super::*;
    use crate::cluster::tests::node;
    use crate::pod::tests::{merged, pod};

    /// Objects of storage, as the caches would have them.
    #[derive(Default)]
    pub(crate) struct Stored {
        pub(crate) claims: Vec<Arc<PersistentVolumeClaim>>,
        pub(crate) volumes: Vec<Arc<PersistentVolume>>,
        pub(crate) classes: Vec<Arc<StorageClass>>,
        pub(crate) assumed: Assumed,
    }

    impl Stored {
        pub(crate) fn with<R>(&self, work: impl FnOnce(&Storage<'_>) -> R) -> R {
            let named = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, name: &str| {
                meta.name.as_deref() == Some(name)
            };
            work(&Storage {
                claim: &|key| {
                    self.claims
                        .iter()
                        .find(|claim| Key::of(&***claim) == *key)
                        .cloned()
                },
                volume: &|name| {
                    self.volumes
                        .iter()
                        .find(|volume| named(&volume.metadata, name))
                        .cloned()
                },
                volumes: &|| self.volumes.clone(),
                class: &|name| {
                    self.classes
                        .iter()
                        .find(|class| named(&class.metadata, name))
                        .cloned()
                },
                assumed: &self.assumed,
            })
        }
    }

    pub(crate) fn claim(name: &str, extra: Value) -> Arc<PersistentVolumeClaim> {
        let claim = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}")},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        Arc::new(serde_json::from_value(merged(claim, extra)).expect("a claim"))
    }

    fn bound(name: &str, volume: &str) -> Arc<PersistentVolumeClaim> {
        claim(
            name,
            json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": volume}}),
        )
    }

    fn volume(name: &str, node: &str) -> Arc<PersistentVolume> {
        let terms = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]);
        let volume = json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "capacity": {"storage": "1Gi"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
            },
            "status": {"phase": "Available"},
        });
        Arc::new(serde_json::from_value(volume).expect("a volume"))
    }

    pub(crate) fn class(provisioner: &str, extra: Value) -> Arc<StorageClass> {
        let class = json!({
            "metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": WAIT_FOR_FIRST_CONSUMER,
        });
        Arc::new(serde_json::from_value(merged(class, extra)).expect("a class"))
    }

    pub(crate) fn user(name: &str, claims: &[&str]) -> Arc<PodInfo> {
        let volumes: Vec<_> = claims
            .iter()
            .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
            .collect();
        pod(name, json!({"spec": {"volumes": volumes}}))
    }

    /// What is to be done on node `n`, in words.
    fn check(pod: &PodInfo, stored: &Stored) -> String {
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", json!({})));
        cluster.set_node(node("m", json!({})));
        stored.with(|storage| {
            let claims = match claims(pod, storage) {
                Ok(claims) => claims,
                Err(unready) => return unready.to_string(),
            };
            match claims.check(&node("n", json!({})), &cluster, storage) {
                Err(rejection) => rejection.to_string(),
                Ok(bindings) => {
                    let found = bindings.found.iter().map(|(claim, volume)| {
                        format!(
                            "{}={}",
                            Key::of(&**claim).name,
                            volume.metadata.name.as_deref().unwrap_or_default()
                        )
                    });
                    let to_make = bindings
                        .to_make
                        .iter()
                        .map(|claim| format!("make {}", Key::of(&**claim).name));
                    found.chain(to_make).collect::<Vec<_>>().join(" ")
                }
            }
        })
    }

    #[test]
    fn claims_that_are_not_ready_keep_the_pod_from_all_nodes() {
        let immediate = class("p", json!({"volumeBindingMode": "Immediate"}));
        for (stored, expected) in [
            (vec![], r#"persistentvolumeclaim "c" not found"#),
            (
                vec![claim(
                    "c",
                    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                )],
                r#"persistentvolumeclaim "c" is being deleted"#,
            ),
            (
                vec![claim(
                    "c",
                    json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}),
                )],
                r#"persistentvolumeclaim "c" bound to non-existent persistentvolume "v""#,
            ),
            (
                vec![claim("c", json!({}))],
                "pod has unbound immediate PersistentVolumeClaims",
            ),
        ] {
            let stored = Stored {
                claims: stored,
                classes: vec![Arc::clone(&immediate)],
                ..Stored::default()
            };
            assert_eq!(check(&user("p", &["c"]), &stored), expected);
        }
        let ephemeral = pod(
            "p",
            json!({"spec": {"volumes": [{"name": "v", "ephemeral": {}}]}}),
        );
        assert_eq!(
            check(&ephemeral, &Stored::default()),
            r#"waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v""#
        );
        let foreign = Stored {
            claims: vec![claim("p-v", json!({}))],
            ..Stored::default()
        };
        assert_eq!(
            check(&ephemeral, &foreign),
            "PVC p-v was not created for the pod (pod is not owner)"
        );
    }

    #[test]
    fn bound_volumes_must_be_usable_on_the_node() {
        let with = |volumes: Vec<Arc<PersistentVolume>>| Stored {
            claims: vec![bound("c", "v")],
            volumes,
            ..Stored::default()
        };
        let pod = user("p", &["c", "c"]);
        assert_eq!(check(&pod, &with(vec![volume("v", "n")])), "");
        assert_eq!(
            check(&pod, &with(vec![volume("v", "m")])),
            Rejection::VolumeNode.to_string()
        );
        assert_eq!(check(&pod, &with(vec![])), Rejection::VolumeGone.to_string());
    }

    #[test]
    fn waiting_claims_find_a_volume_or_have_one_made() {
        let pod = user("p", &["c", "d"]);
        let two = vec![
            claim("c", json!({})),
            claim(
                "d",
                json!({"spec": {"resources": {"requests": {"storage": "500Mi"}}}}),
            ),
        ];
        let stored = |provisioner: &str, volumes: Vec<Arc<PersistentVolume>>| Stored {
            claims: two.clone(),
            volumes,
            classes: vec![class(provisioner, json!({}))],
            ..Stored::default()
        };
        let here = || vec![volume("v", "n"), volume("w", "n")];
        assert_eq!(check(&pod, &stored(NO_PROVISIONER, here())), "d=v c=w");
        assert_eq!(
            check(&pod, &stored(NO_PROVISIONER, vec![volume("v", "n")])),
            Rejection::NoVolume.to_string()
        );
        assert_eq!(check(&pod, &stored("p", vec![volume("v", "n")])), "d=v make c");
        assert_eq!(check(&pod, &stored("p", vec![volume("v", "m")])), "make d make c");
        let mut taken = stored("p", here());
        taken.assumed.volumes.insert("v".to_owned(), Key::new("ns", "x"));
        assert_eq!(check(&pod, &taken), "d=w make c");
    }

    #[test]
    fn a_volume_is_made_where_it_was_begun() {
        let on = |node: &str| Stored {
            claims: vec![claim(
                "c",
                json!({"metadata": {"annotations": {SELECTED_NODE: node}}}),
            )],
            classes: vec![class("p", json!({}))],
            volumes: vec![volume("v", "n")],
            ..Stored::default()
        };
        let pod = user("p", &["c"]);
        assert_eq!(check(&pod, &on("n")), "make c");
        assert_eq!(check(&pod, &on("m")), Rejection::NoVolume.to_string());
        assert_eq!(check(&pod, &on("gone")), "c=v");
        let mut ahead = on("n");
        ahead
            .assumed
            .nodes
            .insert(Key::new("ns", "c"), ("m".to_owned(), 1));
        assert_eq!(check(&pod, &ahead), Rejection::NoVolume.to_string());
    }

    #[test]
    fn classes_may_be_made_in_some_places_only() {
        let zone = |zone: &str| json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]});
        let node = node("n", json!({"metadata": {"labels": {"zone": "a"}}}));
        for (class, expected) in [
            (class("p", zone("a")), true),
            (class("p", zone("b")), false),
            (class(NO_PROVISIONER, json!({})), false),
        ] {
            assert_eq!(can_make(&class, &node), expected, "{class:?}");
        }
    }

    #[test]
    fn volumes_of_a_zone_are_used_there() {
        let zone = "topology.kubernetes.io/zone";
        let of = |value: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"labels": {zone: value}}})).expect("a volume")
        };
        let there = node("n", json!({"metadata": {"labels": {zone: "a"}}}));
        assert!(fits_zone(&of("a"), &there));
        assert!(fits_zone(&of("b__a"), &there));
        assert!(!fits_zone(&of("b"), &there));
        assert!(fits_zone(&of("b"), &node("n", json!({}))));
    }

    #[test]
    fn a_claim_for_one_pod_is_used_by_one() {
        let stored = Stored {
            claims: vec![claim(
                "c",
                json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}},
                    "spec": {"volumeName": "v", "accessModes": [ONE_POD_ONLY]}}),
            )],
            ..Stored::default()
        };
        let mut cluster = Cluster::default();
        cluster.set_node(node("n", json!({})));
        let pod = user("p", &["c"]);
        stored.with(|storage| {
            let claims = claims(&pod, storage).expect("ready");
            assert_eq!(claims.check_use(&pod, &cluster), Ok(()));
            cluster.assume(user("other", &["c"]), "n");
            assert_eq!(claims.check_use(&pod, &cluster), Err(Rejection::ClaimInUse));
        });
    }

    #[test]
    fn what_was_assumed_is_dropped_with_its_last_pod() {
        let mut assumed = Assumed::default();
        let bindings = Bindings {
            claims: vec![],
            found: vec![(claim("c", json!({})), volume("v", "n"))],
            to_make: vec![claim("d", json!({}))],
        };
        assumed.add(&bindings, "n");
        assumed.add(&bindings, "n");
        assumed.remove(&bindings);
        assert_eq!(assumed.nodes[&Key::new("ns", "d")], ("n".to_owned(), 1));
        assumed.remove(&bindings);
        assert!(assumed.nodes.is_empty() && assumed.volumes.is_empty());
    }
}
