//! Who a replica is: its name, labels, volumes and claims ("Pod Identity").

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::state::Ordinal;
use crate::owned::owner_reference;

/// The label with the pod's name.
pub(super) const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label with the pod's ordinal.
pub(super) const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// The label with the name of the pod's revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";

/// The set and ordinal that a pod's name is made of.
pub(super) fn parse_name(pod_name: &str) -> Option<(&str, Ordinal)> {
    let (set, ordinal) = pod_name.rsplit_once('-')?;
    // Each ordinal is written in one way only: the pod `web-00` is not the replica `web-0`.
    let digits =
        ordinal == "0" || !ordinal.starts_with('0') && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    let ordinal = ordinal.parse::<i32>().ok().filter(|_| digits)?;
    Some((set, Ordinal::try_from(ordinal).ok()?))
}

/// The name of a replica's pod.
pub(super) fn pod_name(set: &str, ordinal: Ordinal) -> String {
    format!("{set}-{ordinal}")
}

/// The name of a replica's claim.
pub(super) fn claim_name(template: &str, set: &str, ordinal: Ordinal) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// The reference of an object to the set that controls it.
pub(super) fn controller_reference(set: &StatefulSet) -> OwnerReference {
    owner_reference(("apps/v1", "StatefulSet"), &set.metadata)
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.volume_claim_templates.as_deref().unwrap_or_default()
}

/// The claim templates, with their names.
pub(super) fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = (&str, &PersistentVolumeClaim)> {
    templates(set)
        .iter()
        .filter_map(|template| Some((template.metadata.name.as_deref()?, template)))
}

/// The names of the claim templates.
pub(super) fn template_names(set: &StatefulSet) -> impl Iterator<Item = &str> {
    claim_templates(set).map(|(name, _)| name)
}

/// The pod of a replica, from a template of the set.
pub(super) fn new_pod(
    set: &StatefulSet,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: Ordinal,
) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(set_name, ordinal)),
            generate_name: Some(format!("{set_name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    };
    set_labels(&mut pod, set_name, ordinal);
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let hostname = pod.metadata.name.clone();
    if let Some(spec) = &mut pod.spec {
        spec.hostname = hostname;
        spec.subdomain = set.spec.service_name.clone().filter(|name| !name.is_empty());
        set_volumes(spec, set, ordinal);
    }
    pod
}

fn set_labels(pod: &mut Pod, set_name: &str, ordinal: Ordinal) {
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME_LABEL.to_owned(), pod_name(set_name, ordinal));
    labels.insert(POD_INDEX_LABEL.to_owned(), ordinal.to_string());
}

/// Makes the claims' volumes those of the replica; a template's volume of the same name gives way.
fn set_volumes(spec: &mut PodSpec, set: &StatefulSet, ordinal: Ordinal) {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let mut volumes: Vec<Volume> = template_names(set)
        .map(|template| Volume {
            name: template.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(template, set_name, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    let names: Vec<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
    let others = spec.volumes.take().unwrap_or_default();
    volumes.extend(others.into_iter().filter(|volume| !names.contains(&volume.name)));
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
}

/// The claims of a replica.
pub(super) fn new_claims(set: &StatefulSet, ordinal: Ordinal) -> Vec<PersistentVolumeClaim> {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let selector = set.spec.selector.match_labels.clone().unwrap_or_default();
    templates(set)
        .iter()
        .map(|template| {
            let mut claim = template.clone();
            let name = template.metadata.name.as_deref().unwrap_or_default();
            claim.metadata.name = Some(claim_name(name, set_name, ordinal));
            claim.metadata.namespace = set.metadata.namespace.clone();
            let labels: &mut BTreeMap<_, _> = claim.metadata.labels.get_or_insert_default();
            labels.extend(selector.clone());
            claim.status = None;
            claim
        })
        .collect()
}

/// Whether a pod's labels and volumes are those of its replica.
pub(super) fn matches(set: &StatefulSet, pod: &Pod, ordinal: Ordinal) -> bool {
    let set_name = set.metadata.name.as_deref().unwrap_or_default();
    let label = pod
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(POD_NAME_LABEL));
    if label.map(String::as_str) != pod.metadata.name.as_deref() {
        return false;
    }
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    template_names(set).all(|template| {
        let volume = volumes.iter().find(|volume| volume.name == template);
        let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        claim.is_some_and(|claim| claim.claim_name == claim_name(template, set_name, ordinal))
    })
}

/// Puts a pod's labels and volumes right.
pub(super) fn fix(set: &StatefulSet, pod: &mut Pod, ordinal: Ordinal) {
    set_labels(pod, set.metadata.name.as_deref().unwrap_or_default(), ordinal);
    if let Some(spec) = &mut pod.spec {
        set_volumes(spec, set, ordinal);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "s1"},
            "spec": {
                "serviceName": "web",
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c"}], "volumes": [
                        {"name": "data", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                    ]},
                },
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"mine": "1"}}, "spec": {}}],
            },
        }))
        .expect("a set")
    }

    #[test]
    fn names_are_a_set_and_an_ordinal() {
        for (name, expected) in [
            ("web-0", Some(("web", 0))),
            ("a-b-12", Some(("a-b", 12))),
            ("web", None),
            ("web-", None),
            ("web-x", None),
            ("web-00", None),
            ("web-01", None),
            ("web-10", Some(("web", 10))),
            ("web--1", Some(("web-", 1))),
            ("web-+1", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }

    #[test]
    fn a_new_pod_has_its_name_labels_and_claims() {
        let set = set();
        let template = &set.spec.template;
        let pod = new_pod(&set, template, "web-abc", 3);
        assert!(matches(&set, &pod, 3));
        let labels = pod.metadata.labels.as_ref().expect("labels");
        assert_eq!(labels["apps.kubernetes.io/pod-index"], "3");
        assert_eq!(labels["controller-revision-hash"], "web-abc");
        let spec = pod.spec.as_ref().expect("a spec");
        assert_eq!(
            (spec.hostname.as_deref(), spec.subdomain.as_deref()),
            (Some("web-3"), Some("web"))
        );
        let volumes: Vec<_> = spec
            .volumes
            .iter()
            .flatten()
            .map(|volume| volume.name.as_str())
            .collect();
        assert_eq!(volumes, ["data", "tmp"]);
        assert!(!matches(&set, &pod, 2));
    }

    #[test]
    fn claims_carry_the_selectors_labels_beside_their_own() {
        let claims = new_claims(&set(), 1);
        assert_eq!(claims[0].metadata.name.as_deref(), Some("data-web-1"));
        let labels = claims[0].metadata.labels.as_ref().expect("labels");
        assert_eq!((labels["app"].as_str(), labels["mine"].as_str()), ("web", "1"));
    }
}
