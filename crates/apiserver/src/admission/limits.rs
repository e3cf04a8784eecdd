//! Admission of pods and claims by the LimitRanges of their namespace: what they get that they do
//! not ask for, and how much or how little they may. See "Limit Ranges".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde::Deserialize as _;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::kinds::pod::{Total, total};
use stead_api::meta;
use stead_api::quantity::Quantity;

use crate::server::Call;

/// Tells what a pod got.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// Gives a new pod's containers what the namespace's ranges say that they get.
pub(super) fn apply(call: &Call<'_>, pod: &mut Value) {
    let ranges = ranges(call, meta::namespace(pod));
    let mut given = Vec::new();
    for range in &ranges {
        let got = fill(pod, &defaults(range));
        if !got.is_empty() {
            given = got;
        }
    }
    if !given.is_empty() {
        pod["metadata"]["annotations"][ANNOTATION] =
            format!("LimitRanger plugin set: {}", given.join("; ")).into();
    }
}

/// Refuses a pod or a claim that asks for more or less than the namespace's ranges allow. What is on
/// its way out is let go.
pub(super) fn check(call: &Call<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if old.is_some_and(meta::is_deleting) {
        return Ok(());
    }
    let (mut pod, mut claim) = (None, None);
    for range in ranges(call, meta::namespace(object)) {
        let items = range.spec.map(|spec| spec.limits).unwrap_or_default();
        let refused = if call.kind.plural == "pods" {
            if pod.is_none() {
                pod = Some(Pod::deserialize(object).map_err(ApiError::internal)?);
            }
            let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
            spec.map(|spec| refused_pod(&items, spec)).unwrap_or_default()
        } else {
            if claim.is_none() {
                claim = Some(PersistentVolumeClaim::deserialize(object).map_err(ApiError::internal)?);
            }
            claim
                .as_ref()
                .map(|claim| refused_claim(&items, claim))
                .unwrap_or_default()
        };
        if let Some(why) = aggregate(refused) {
            let kind = call.kind;
            return Err(ApiError::forbidden(
                kind.group,
                kind.plural,
                meta::name(object),
                &why,
            ));
        }
    }
    Ok(())
}

fn ranges(call: &Call<'_>, namespace: &str) -> Vec<LimitRange> {
    let stored = call.server.all(("", "limitranges"), namespace);
    let ranges = stored.iter().map(|range| LimitRange::deserialize(&range.value()));
    ranges.filter_map(Result::ok).collect()
}

/// Several reasons as one text, as Kubernetes aggregates them.
fn aggregate(mut reasons: Vec<String>) -> Option<String> {
    let mut seen: Vec<String> = Vec::new();
    reasons.retain(|reason| {
        let is_new = !seen.contains(reason);
        seen.push(reason.clone());
        is_new
    });
    match reasons.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

/// What a range gives to containers: limits and requests.
fn defaults(range: &LimitRange) -> [BTreeMap<String, Written>; 2] {
    let mut lists = [BTreeMap::new(), BTreeMap::new()];
    let items = range.spec.iter().flat_map(|spec| &spec.limits);
    for item in items.filter(|item| item.type_ == "Container") {
        lists[0].extend(item.default.clone().unwrap_or_default());
        lists[1].extend(item.default_request.clone().unwrap_or_default());
    }
    lists
}

/// Fills in what containers lack, and tells what that was.
fn fill(pod: &mut Value, [limits, requests]: &[BTreeMap<String, Written>; 2]) -> Vec<String> {
    let mut told = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if container["resources"].is_null() && container.is_object() {
                container["resources"] = json!({});
            }
            if !container["resources"].is_object() {
                // Validation will say so.
                continue;
            }
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, given, word) in [("requests", requests, "request"), ("limits", limits, "limit")] {
                let mut set = Vec::new();
                for (resource, quantity) in given {
                    let of = &mut container["resources"][field];
                    if of.get(resource).is_none() {
                        of[resource.as_str()] = quantity.0.as_str().into();
                        set.push(resource.as_str());
                    }
                }
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    told
}

fn refused_pod(items: &[LimitRangeItem], spec: &PodSpec) -> Vec<String> {
    let mut refused = Vec::new();
    for item in items {
        if item.type_ == "Container" {
            let of_all = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten());
            for container in of_all {
                let [requests, limits] = of_container(container);
                refused.extend(refused_by(item, &requests, &limits));
            }
        } else if item.type_ == "Pod" {
            let (requests, limits) = (total(spec, Total::Requests), total(spec, Total::Limits));
            refused.extend(refused_by(item, &requests, &limits));
        }
    }
    refused
}

fn of_container(container: &Container) -> [Amounts; 2] {
    let resources = container.resources.clone().unwrap_or_default();
    [
        amounts(resources.requests.as_ref()),
        amounts(resources.limits.as_ref()),
    ]
}

fn amounts(list: Option<&BTreeMap<String, Written>>) -> Amounts {
    list.into_iter()
        .flatten()
        .map(|(name, quantity)| (name.clone(), amount(quantity)))
        .collect()
}

/// The amount of a field, which is canonical where it is stored or has been checked.
fn amount(quantity: &Written) -> Quantity {
    quantity.0.parse().unwrap_or(Quantity::ZERO)
}

fn refused_by(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut refused = Vec::new();
    let of = &item.type_;
    for (name, least) in item.min.iter().flatten() {
        refused.extend(below(of, name, least, requests.get(name), limits.get(name)));
    }
    for (name, most) in item.max.iter().flatten() {
        let bound = amount(most);
        let why = match (requests.get(name), limits.get(name)) {
            (_, None) => ".  No limit is specified".to_owned(),
            (_, Some(limit)) if limit.exceeds(bound) => format!(", but limit is {limit}"),
            (Some(request), _) if request.exceeds(bound) => format!(", but request is {request}"),
            _ => continue,
        };
        refused.push(format!("maximum {name} usage per {of} is {}{why}", most.0));
    }
    for (name, most) in item.max_limit_request_ratio.iter().flatten() {
        let given = |amounts: &Amounts| amounts.get(name).copied().filter(|amount| !amount.is_zero());
        let why = match (given(requests), given(limits)) {
            (None, _) => "but no request is specified or request is 0".to_owned(),
            (_, None) => "but no limit is specified or limit is 0".to_owned(),
            (Some(request), Some(limit)) => {
                let ratio = ratio(limit, request);
                if ratio * 1000.0 <= amount(most).milli() as f64 {
                    continue;
                }
                format!("but provided ratio is {ratio:.6}")
            }
        };
        refused.push(format!(
            "{name} max limit to request ratio per {of} is {}, {why}",
            most.0
        ));
    }
    refused
}

fn below(
    of: &str,
    name: &str,
    least: &Written,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let bound = amount(least);
    let why = match (request, limit) {
        (None, _) => ".  No request is specified".to_owned(),
        (Some(request), _) if bound.exceeds(*request) => format!(", but request is {request}"),
        (_, Some(limit)) if bound.exceeds(*limit) => format!(", but limit is {limit}"),
        _ => return None,
    };
    Some(format!("minimum {name} usage per {of} is {}{why}", least.0))
}

/// In thousandths where they have room, as Kubernetes divides them.
fn ratio(limit: Quantity, request: Quantity) -> f64 {
    let most = i64::MAX / 1000;
    if limit.value() < most && request.value() < most {
        limit.milli() as f64 / request.milli() as f64
    } else {
        limit.value() as f64 / request.value() as f64
    }
}

/// A claim has no limits: what it asks for is held against both bounds.
fn refused_claim(items: &[LimitRangeItem], claim: &PersistentVolumeClaim) -> Vec<String> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    let mut refused = Vec::new();
    for item in items.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
        let of = &item.type_;
        for (name, least) in item.min.iter().flatten() {
            refused.extend(below(of, name, least, requests.get(name), None));
        }
        for (name, most) in item.max.iter().flatten() {
            let why = match requests.get(name) {
                None => ".  No request is specified".to_owned(),
                Some(request) if request.exceeds(amount(most)) => format!(", but request is {request}"),
                Some(_) => continue,
            };
            refused.push(format!("maximum {name} usage per {of} is {}{why}", most.0));
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(item: Value) -> LimitRangeItem {
        serde_json::from_value(item).expect("an item")
    }

    fn spec(requests: &Value, limits: &Value) -> PodSpec {
        let container = json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
        serde_json::from_value(json!({"containers": [container]})).expect("a spec")
    }

    #[test]
    fn containers_get_what_they_lack_and_it_is_told() {
        let range = LimitRange::deserialize(json!({"spec": {"limits": [
            {"type": "Container", "default": {"cpu": "200m", "memory": "64Mi"}, "defaultRequest": {"cpu": "100m"}},
        ]}}))
        .expect("a range");
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}],
            "initContainers": [{"name": "i"}]}});
        assert_eq!(
            fill(&mut pod, &defaults(&range)),
            [
                "cpu request for container c",
                "memory limit for container c",
                "cpu request for init container i",
                "cpu, memory limit for init container i",
            ]
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}})
        );
    }

    #[test]
    fn pods_stay_within_bounds() {
        for (of, requests, limits, expected) in [
            (
                json!({"max": {"cpu": "1"}}),
                json!({"cpu": "1"}),
                json!({"cpu": "1"}),
                None,
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({}),
                json!({"cpu": "2"}),
                Some("maximum cpu usage per Container is 1, but limit is 2"),
            ),
            (
                json!({"max": {"cpu": "1"}}),
                json!({}),
                json!({}),
                Some("maximum cpu usage per Container is 1.  No limit is specified"),
            ),
            (
                json!({"min": {"cpu": "100m", "memory": "1Mi"}}),
                json!({"cpu": "50m"}),
                json!({}),
                Some(
                    "[minimum cpu usage per Container is 100m, but request is 50m, minimum memory usage per Container is 1Mi.  No request is specified]",
                ),
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"cpu": "100m"}),
                json!({"cpu": "300m"}),
                Some("cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "1"}}),
                json!({}),
                json!({"cpu": "2"}),
                Some("maximum cpu usage per Pod is 1, but limit is 2"),
            ),
        ] {
            let mut whole = json!({"type": "Container"});
            for (field, value) in of.as_object().expect("fields") {
                whole[field] = value.clone();
            }
            let refused = refused_pod(&[item(whole)], &spec(&requests, &limits));
            assert_eq!(aggregate(refused).as_deref(), expected, "{of}");
        }
    }

    #[test]
    fn claims_stay_within_bounds() {
        let bounds = [item(
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "2Mi"}, "max": {"storage": "5Mi"}}),
        )];
        for (asked, expected) in [
            ("3Mi", None),
            (
                "1Mi",
                Some("minimum storage usage per PersistentVolumeClaim is 2Mi, but request is 1Mi"),
            ),
            (
                "10Mi",
                Some("maximum storage usage per PersistentVolumeClaim is 5Mi, but request is 10Mi"),
            ),
        ] {
            let claim = json!({"spec": {"resources": {"requests": {"storage": asked}}}});
            let claim = PersistentVolumeClaim::deserialize(claim).expect("a claim");
            assert_eq!(
                aggregate(refused_claim(&bounds, &claim)).as_deref(),
                expected,
                "{asked}"
            );
        }
    }
}
