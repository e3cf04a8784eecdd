//! StatefulSets at a glance.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use stead_informer::{Informers, Key};

use super::SetStatus;

/// All sets, by namespace and name.
pub(super) fn all(informers: &Informers) -> Vec<SetStatus> {
    let sets = informers.stateful_sets.all();
    let mut all: Vec<SetStatus> = sets
        .iter()
        .map(|set| {
            let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
            let claims = informers.claims.in_namespace(namespace);
            status(set, claims.iter().map(|claim| &**claim))
        })
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

fn status<'c>(set: &StatefulSet, claims: impl Iterator<Item = &'c PersistentVolumeClaim>) -> SetStatus {
    let Key { namespace, name } = Key::of(set);
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let prefixes: Vec<String> = templates
        .filter_map(|template| Some(format!("{}-{name}-", template.metadata.name.as_ref()?)))
        .collect();
    let is_own = |claim: &&PersistentVolumeClaim| {
        let claim = claim.metadata.name.as_deref().unwrap_or_default();
        let mut ordinals = prefixes.iter().filter_map(|prefix| claim.strip_prefix(prefix));
        ordinals.any(|ordinal| ordinal.parse::<u32>().is_ok())
    };
    let own: Vec<_> = claims.filter(is_own).collect();
    let is_bound = |claim: &&&PersistentVolumeClaim| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        phase == Some("Bound")
    };
    SetStatus {
        replicas: set.spec.replicas.unwrap_or(1),
        ready: set
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0),
        claims: own.len(),
        bound: own.iter().filter(is_bound).count(),
        namespace,
        name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sets_claims_are_those_of_its_replicas() {
        let set = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 3, "selector": {}, "template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
            "status": {"replicas": 3, "readyReplicas": 2},
        });
        let set = serde_json::from_value(set).expect("a set");
        let claim = |(name, phase): (&str, &str)| {
            let claim = json!({"metadata": {"name": name}, "status": {"phase": phase}});
            serde_json::from_value::<PersistentVolumeClaim>(claim).expect("a claim")
        };
        let claims = [
            ("data-web-0", "Bound"),
            ("data-web-12", "Pending"),
            ("data-web-db-0", "Bound"),
            ("log-web-0", "Bound"),
        ]
        .map(claim);
        let expected = SetStatus {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            replicas: 3,
            ready: 2,
            claims: 2,
            bound: 1,
        };
        assert_eq!(status(&set, claims.iter()), expected);
    }
}
