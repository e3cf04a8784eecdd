//! APIService (apiregistration.k8s.io/v1): a group and version of the API, and who serves it. Those that
//! this server serves itself are local; requests are not passed on to others, which their condition says.

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{
    APIService, APIServiceCondition, APIServiceStatus,
};
use serde_json::{Value, json};

use super::{name_cell, text};
use crate::error::{Errors, Path, quote};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::table::age;

/// The group of these objects.
pub const GROUP: &str = "apiregistration.k8s.io";

pub(super) static KIND: Kind = Kind {
    categories: &["api-extensions"],
    namespaced: false,
    unconditional_update: false,
    name_rule: names::path_segment,
    update_metadata: &[MetadataCheck::Update, MetadataCheck::Create],
    subresources: &[Subresource::status("APIService")],
    columns: &[
        Column::NAME,
        Column::new("Service", "who serves it"),
        Column::new("Available", "whether it can be asked"),
        Column::AGE,
    ],
    ..Kind::new(
        (GROUP, "v1", "APIService"),
        ("apiservices", "apiservice"),
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
        Logic::of::<APIService>(),
    )
};

const AVAILABLE: &str = "Available";
const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
const HTTPS: i32 = 443;

impl ApiObject for APIService {
    fn set_defaults(&mut self) {
        let service = self.spec.as_mut().and_then(|spec| spec.service.as_mut());
        if let Some(service) = service {
            service.port.get_or_insert(HTTPS);
        }
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(availability(is_local(self)));
    }

    fn prepare_for_update(&mut self, old: &APIService) {
        if is_local(self) != is_local(old) {
            self.status = Some(availability(is_local(self)));
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let (group, version) = (text(&spec.group), text(&spec.version));
        let required = format!("{version}.{group}");
        let name = text(&self.metadata.name);
        if name != required && names::path_segment(name).is_empty() {
            let why = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&required));
            errors.invalid(&Path::new("metadata").child("name"), name, &why);
        }
        let path = Path::new("spec");
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.required(&path.child("group"), why);
        }
        if !group.is_empty() {
            errors.invalid_each(&path.child("group"), group, names::dns_subdomain(group));
        }
        errors.invalid_each(&path.child("version"), version, names::dns_1035_label(version));
        for (field, value, most) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1000),
        ] {
            if !(1..=most).contains(&value) {
                let why = format!("must be positive and less than {most}");
                errors.invalid(&path.child(field), &value, &why);
            }
        }
        let insecure = spec.insecure_skip_tls_verify.unwrap_or(false);
        let bundle = spec.ca_bundle.map_or(0, |bundle| bundle.0.len());
        let insecure_path = path.child("insecureSkipTLSVerify");
        let Some(service) = &spec.service else {
            if bundle > 0 {
                let why = "local APIServices may not have a caBundle";
                errors.invalid(&path.child("caBundle"), &format!("{bundle} bytes"), why);
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid(&insecure_path, &true, why);
            }
            return;
        };
        let path = path.child("service");
        errors.present(&path.child("namespace"), text(&service.namespace));
        errors.present(&path.child("name"), text(&service.name));
        for objection in names::port_number(service.port.unwrap_or(HTTPS).into()) {
            let why = format!("port is not valid: {objection}");
            errors.invalid(&path.child("port"), &service.port.unwrap_or(HTTPS), &why);
        }
        if insecure && bundle > 0 {
            errors.invalid(&insecure_path, &true, "may not be true if caBundle is present");
        }
    }

    fn validate_status_update(&self, _old: &APIService, errors: &mut Errors) {
        let path = Path::new("status").child("conditions");
        for (at, condition) in conditions(self).iter().enumerate() {
            errors.one_of(&path.index(at).child("status"), &condition.status, &STATUSES);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let service = self.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let service = service.map_or_else(
            || "Local".to_owned(),
            |service| format!("{}/{}", text(&service.namespace), text(&service.name)),
        );
        let available = conditions(self)
            .iter()
            .find(|condition| condition.type_ == AVAILABLE);
        let available = match available {
            None => "Unknown".to_owned(),
            Some(condition) if condition.status == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", condition.status, text(&condition.reason)),
        };
        vec![
            name_cell(&self.metadata),
            service.into(),
            available.into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

/// What a server says of a group and version that it serves itself. None for a group whose order upstream
/// does not give.
pub fn local(group: &str, version: &str) -> Option<Value> {
    let (of_group, of_version) = priorities(group, version)?;
    let mut spec =
        json!({"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    Some(json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "APIService",
        "metadata": {
            "name": format!("{version}.{group}"),
            "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
        },
        "spec": spec,
    }))
}

/// The priorities of a group, and of a version within it.
fn priorities(group: &str, version: &str) -> Option<(i32, i32)> {
    let of_group = match group {
        "" => return Some((18_000, 1)),
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "apiextensions.k8s.io" | "admissionregistration.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" => 16_200,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        _ => return None,
    };
    Some((of_group, if version == "v2" { 30 } else { 15 }))
}

fn is_local(service: &APIService) -> bool {
    service.spec.as_ref().is_none_or(|spec| spec.service.is_none())
}

fn conditions(service: &APIService) -> &[APIServiceCondition] {
    let status = service.status.as_ref();
    status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
}

fn availability(is_local: bool) -> APIServiceStatus {
    let (status, reason, message) = if is_local {
        ("True", "Local", "Local APIServices are always available")
    } else {
        (
            "False",
            "NotProxied",
            "this cluster passes no requests on to services: the group is not served",
        )
    };
    APIServiceStatus {
        conditions: Some(vec![APIServiceCondition {
            type_: AVAILABLE.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: None,
        }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(value: Value) -> APIService {
        let mut service: APIService = serde_json::from_value(value).expect("a service");
        service.set_defaults();
        service.prepare_for_create();
        service
    }

    #[test]
    fn what_others_serve_is_not_available_and_says_so() {
        let local = service(
            json!({"metadata": {"name": "v1.a"}, "spec": {"group": "a", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1}}),
        );
        assert_eq!(local.row(Timestamp::UNIX_EPOCH)[1..3], ["Local", "True"]);
        let mut errors = Errors::new();
        local.validate(&mut errors);
        assert!(errors.is_empty(), "{}", errors.summary());
        let other = service(
            json!({"metadata": {"name": "x"}, "spec": {"group": "a", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"name": "s", "namespace": "n"}}}),
        );
        assert_eq!(
            other.row(Timestamp::UNIX_EPOCH)[1..3],
            ["n/s", "False (NotProxied)"]
        );
        other.validate(&mut errors);
        assert_eq!(
            errors.summary(),
            "metadata.name: Invalid value: \"x\": must be `spec.version+\".\"+spec.group`: \"v1.a\""
        );
    }
}
