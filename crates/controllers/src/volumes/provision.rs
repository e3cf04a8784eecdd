//! Volumes that are directories of a node: what is refused, and the object that stands for one.
//! Pure.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stead_informer::semantics::volumes::{PROVISIONED_BY, fits_node, reference_to};

use super::volume::PROVISIONER_FINALIZER;

/// The name of our provisioner, as classes have it.
pub const PROVISIONER: &str = "stead.dev/local-path";

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The name of a claim's volume.
pub(super) fn volume_name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// Why a claim cannot have a directory of a node; none where it can.
pub(super) fn refusal(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: Option<&Node>,
) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let allows_node = topologies.is_empty()
        || topologies.iter().any(|term| {
            term.match_label_expressions.iter().flatten().all(|wanted| {
                let found = node.and_then(|node| node.metadata.labels.as_ref()?.get(&wanted.key));
                found.is_some_and(|found| wanted.values.contains(found))
            })
        });
    if spec.volume_mode.as_deref() == Some("Block") {
        Some("block volumes are not supported")
    } else if spec.selector.is_some() {
        Some("claim.spec.selector is not supported")
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        Some("data sources are not supported")
    } else if !allows_node {
        Some("the node is not among the allowed topologies of the class")
    } else {
        None
    }
}

/// The volume of a claim, at a path of a node.
pub(super) fn new_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    path: &Path,
    hostname: &str,
) -> PersistentVolume {
    let wanted = claim.spec.clone().unwrap_or_default();
    let storage = wanted
        .resources
        .and_then(|resources| resources.requests)
        .and_then(|mut requests| requests.remove_entry("storage"));
    let policy = class
        .reclaim_policy
        .clone()
        .unwrap_or_else(|| "Delete".to_owned());
    let finalizers = (policy == "Delete").then(|| vec![PROVISIONER_FINALIZER.to_owned()]);
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name_for(claim)),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            finalizers,
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: wanted.access_modes,
            capacity: storage.map(|storage| [storage].into()),
            claim_ref: Some(reference_to(claim)),
            local: Some(LocalVolumeSource {
                path: path.to_string_lossy().into_owned(),
                fs_type: None,
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(only_on(hostname)),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// The name that a node goes by in node affinities.
pub(super) fn hostname(name: &str, node: Option<&Node>) -> String {
    let label = node.and_then(|node| node.metadata.labels.as_ref()?.get(HOSTNAME));
    label.map_or_else(|| name.to_owned(), String::clone)
}

/// Whether a volume is one of this node. One that may be anywhere is nobody's.
pub(super) fn is_on(volume: &PersistentVolume, name: &str, node: Option<&Node>) -> bool {
    if volume
        .spec
        .as_ref()
        .is_none_or(|spec| spec.node_affinity.is_none())
    {
        return false;
    }
    match node {
        Some(node) => fits_node(volume, node),
        // Before the node has registered, or after it was removed: its own name is known still.
        None => fits_node(
            volume,
            &Node {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    labels: Some([(HOSTNAME.to_owned(), name.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                ..Node::default()
            },
        ),
    }
}

fn only_on(hostname: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.to_owned()]),
    };
    VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![requirement]),
                match_fields: None,
            }],
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::claim::tests::claim;
    use super::*;

    fn class(extra: Value) -> StorageClass {
        let mut class = json!({"metadata": {"name": "x"}, "provisioner": PROVISIONER});
        if let (Value::Object(class), Value::Object(extra)) = (&mut class, extra) {
            class.extend(extra);
        }
        serde_json::from_value(class).expect("a class")
    }

    #[test]
    fn a_new_volume_is_the_claims_and_the_nodes() {
        let volume = new_volume(&claim(json!({})), &class(json!({})), Path::new("/d/v"), "n1");
        let shown = serde_json::to_value(&volume).expect("JSON");
        assert_eq!(shown["metadata"]["name"], "pvc-u1");
        assert_eq!(shown["metadata"]["annotations"][PROVISIONED_BY], PROVISIONER);
        assert_eq!(shown["metadata"]["finalizers"], json!([PROVISIONER_FINALIZER]));
        assert_eq!(
            shown["spec"],
            json!({
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "ns", "name": "c", "uid": "u1"},
                "local": {"path": "/d/v"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["n1"]}]},
                ]}},
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "x",
                "volumeMode": "Filesystem",
            })
        );
        let kept = new_volume(
            &claim(json!({})),
            &class(json!({"reclaimPolicy": "Retain"})),
            Path::new("/d/v"),
            "n1",
        );
        assert_eq!(kept.metadata.finalizers, None);
        assert!(is_on(&volume, "n1", None) && !is_on(&volume, "n2", None));
        assert!(!is_on(&PersistentVolume::default(), "n1", None));
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}}))
            .expect("a node");
        let zone = |zone: &str| json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": [zone]}]}]});
        for (spec, class_extra, refused) in [
            (json!({}), json!({}), false),
            (json!({"volumeMode": "Filesystem"}), json!({}), false),
            (json!({"volumeMode": "Block"}), json!({}), true),
            (json!({"selector": {"matchLabels": {"a": "b"}}}), json!({}), true),
            (
                json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "d"}}),
                json!({}),
                true,
            ),
            (json!({}), zone("a"), false),
            (json!({}), zone("b"), true),
        ] {
            let claim = claim(json!({"spec": spec}));
            let refusal = refusal(&claim, &class(class_extra), Some(&node));
            assert_eq!(refusal.is_some(), refused, "{spec} {refusal:?}");
        }
    }
}
