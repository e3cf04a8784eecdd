//! What to do about the endpoints of a service: a pure function of what was observed.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::mirror;
use super::pods::View;
use super::slices::{self, Changes, MANAGED_BY};
use super::subsets;

/// What is to be done about the Endpoints object.
#[derive(Debug, Default, PartialEq)]
pub(super) enum EndpointsChange {
    /// Nothing.
    #[default]
    None,
    /// It is to be made.
    Create(Endpoints),
    /// It is to be like this.
    Update(Endpoints),
    /// It is to go.
    Delete(Arc<Endpoints>),
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) endpoints: EndpointsChange,
    pub(super) slices: Changes,
    /// Addresses of hand-made Endpoints that cannot be read.
    pub(super) invalid: usize,
    /// Addresses of hand-made Endpoints beyond the limit.
    pub(super) skipped: usize,
}

/// Whether a service's endpoints are its pods'.
pub(super) fn selects_pods(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec
                .selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty())
    })
}

fn managed_by(slices: &[Arc<EndpointSlice>], manager: &str) -> Vec<Arc<EndpointSlice>> {
    let is_managed = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(MANAGED_BY))
            .is_some_and(|value| value == manager)
    };
    slices.iter().filter(is_managed).cloned().collect()
}

/// For a service that selects pods. Slices that mirrored hand-made Endpoints before are not needed
/// any more.
pub(super) fn for_pods(view: &View<'_>, endpoints: Option<&Endpoints>, all: &[Arc<EndpointSlice>]) -> Plan {
    let mut changes = slices::plan(view, &managed_by(all, slices::MANAGER));
    changes.delete.extend(managed_by(all, mirror::MANAGER));
    let change = match (subsets::plan(view, endpoints), endpoints) {
        (None, _) => EndpointsChange::None,
        (Some(wanted), None) => EndpointsChange::Create(wanted),
        (Some(wanted), Some(_)) => EndpointsChange::Update(wanted),
    };
    Plan {
        endpoints: change,
        slices: changes,
        ..Plan::default()
    }
}

/// For a service whose endpoints are made by hand.
pub(super) fn for_hand_made(endpoints: Option<&Endpoints>, all: &[Arc<EndpointSlice>]) -> Plan {
    let mirrored = managed_by(all, mirror::MANAGER);
    match endpoints.filter(|endpoints| mirror::wants_mirror(endpoints)) {
        Some(endpoints) => {
            let mirror::Plan {
                changes,
                invalid,
                skipped,
            } = mirror::plan(endpoints, &mirrored);
            Plan {
                slices: changes,
                invalid,
                skipped,
                ..Plan::default()
            }
        }
        None => Plan {
            slices: Changes {
                delete: mirrored,
                ..Changes::default()
            },
            ..Plan::default()
        },
    }
}

/// Where there is no service. Its Endpoints go with it; Endpoints that somebody made before the
/// service stay. Slices go by garbage collection, except those that mirror.
pub(super) fn without_service(
    endpoints: Option<Arc<Endpoints>>,
    all: &[Arc<EndpointSlice>],
    was_there: bool,
) -> Plan {
    let endpoints = match endpoints {
        Some(endpoints) if was_there || subsets::is_managed(&endpoints) => EndpointsChange::Delete(endpoints),
        _ => EndpointsChange::None,
    };
    let delete = managed_by(all, mirror::MANAGER);
    Plan {
        endpoints,
        slices: Changes {
            delete,
            ..Changes::default()
        },
        ..Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, manager: &str) -> Arc<EndpointSlice> {
        let slice =
            json!({"metadata": {"name": name, "labels": {MANAGED_BY: manager}}, "addressType": "IPv4"});
        Arc::new(serde_json::from_value(slice).expect("a slice"))
    }

    fn endpoints(labels: Value) -> Arc<Endpoints> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web", "labels": labels}}))
                .expect("endpoints"),
        )
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        plan.slices
            .delete
            .iter()
            .filter_map(|slice| slice.metadata.name.as_deref())
            .collect()
    }

    #[test]
    fn external_names_and_services_without_selector_have_no_pods() {
        for (spec, expected) in [
            (json!({"selector": {"a": "b"}}), true),
            (json!({"selector": {"a": "b"}, "type": "ExternalName"}), false),
            (json!({"selector": {}}), false),
            (json!({}), false),
        ] {
            let service = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a service");
            assert_eq!(selects_pods(&service), expected, "{spec}");
        }
    }

    #[test]
    fn a_service_takes_its_endpoints_with_it() {
        let all = [
            slice("m", mirror::MANAGER),
            slice("s", slices::MANAGER),
            slice("o", "other"),
        ];
        let plan = without_service(Some(endpoints(json!({}))), &all, true);
        assert!(matches!(plan.endpoints, EndpointsChange::Delete(_)));
        assert_eq!(deleted(&plan), ["m"]);
        // Made before the service.
        let plan = without_service(Some(endpoints(json!({}))), &all, false);
        assert_eq!(plan.endpoints, EndpointsChange::None);
        // Left over from before a restart.
        let ours = endpoints(json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"}));
        assert!(matches!(
            without_service(Some(ours), &all, false).endpoints,
            EndpointsChange::Delete(_)
        ));
    }

    #[test]
    fn what_is_not_to_be_mirrored_loses_its_mirror() {
        let all = [slice("m", mirror::MANAGER), slice("s", slices::MANAGER)];
        let skipped = endpoints(json!({"endpointslice.kubernetes.io/skip-mirror": "true"}));
        assert_eq!(deleted(&for_hand_made(Some(&skipped), &all)), ["m"]);
        assert_eq!(deleted(&for_hand_made(None, &all)), ["m"]);
    }
}
