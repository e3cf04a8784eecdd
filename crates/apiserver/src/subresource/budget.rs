//! What the budgets of a pod say to its eviction ("Specifying a Disruption Budget for your
//! Application"). An eviction that a budget allows is noted in it before the pod goes, so that those
//! after it know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::Deserialize as _;
use serde_json::{Value, json};
use stead_api::error::ApiError;
use stead_api::meta;
use stead_api::selector::Selector;

use crate::identity::{Identity, MASTERS, SERVER};
use crate::options::{FieldSource, FieldValidation, WriteOptions};
use crate::request::ResourcePath;
use crate::resource::{Change, Failure, current, write_update};
use crate::server::Call;
use crate::stored::key;

const GROUP: &str = "policy";
const PLURAL: &str = "poddisruptionbudgets";
/// Evictions that the controller has not seen yet; more are not kept.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CONDITION: &str = "DisruptionAllowed";

/// What a budget says.
#[derive(Debug)]
enum Verdict {
    /// The pod may go, and counts for nothing.
    Free,
    /// The pod may go once this is the budget's status.
    Counted(Box<PodDisruptionBudgetStatus>),
}

/// Asks the budget of a pod, and notes the eviction in it.
pub(super) async fn ask(call: &Call<'_>, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let phase = pod["status"]["phase"].as_str();
    if meta::is_deleting(pod) || matches!(phase, Some("Succeeded" | "Failed" | "Pending")) {
        return Ok(());
    }
    let Some(kind) = call.server.registry.resource(GROUP, "v1", PLURAL) else {
        return Ok(());
    };
    let namespace = meta::namespace(pod);
    let names = budgets_of(call, &key::prefix(kind, namespace), pod);
    let name = match &names[..] {
        [] => return Ok(()),
        [name] => name,
        _ => {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::new(500, "", why));
        }
    };
    let path = ResourcePath {
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: PLURAL.to_owned(),
        namespace: namespace.to_owned(),
        name: name.clone(),
        subresource: "status".to_owned(),
        ..ResourcePath::default()
    };
    // Whoever may evict need not be allowed to write budgets.
    let own = Identity::new(SERVER, [MASTERS]);
    let of_budget = Call {
        server: call.server,
        identity: &own,
        kind,
        path: &path,
        query: call.query,
        headers: call.headers,
        accepted: call.accepted,
    };
    let options = WriteOptions {
        fields: FieldSource::Sent,
        dry_run,
        field_validation: FieldValidation::Ignore,
    };
    loop {
        let old = current(&of_budget)?;
        let before = old.value();
        let budget = PodDisruptionBudget::deserialize(&before).map_err(ApiError::internal)?;
        let status = match decide(pod, &budget, Timestamp::now())? {
            Verdict::Free => return Ok(()),
            Verdict::Counted(status) => status,
        };
        let mut new = before.clone();
        new["status"] = serde_json::to_value(&status).map_err(ApiError::internal)?;
        let mut warnings = Vec::new();
        let written = write_update(
            &of_budget,
            &old,
            &before,
            new,
            Change::Status,
            options,
            &mut warnings,
        );
        match Box::pin(written).await {
            Err(Failure::LostRace(_)) => {}
            Err(Failure::Refused(error)) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
}

/// The names of the budgets that a pod is in.
fn budgets_of(call: &Call<'_>, prefix: &str, pod: &Value) -> Vec<String> {
    let snapshot = call.server.store.snapshot();
    let labels = meta::typed(pod).labels;
    let budgets = snapshot
        .prefix(prefix)
        .filter_map(|(_, entry)| PodDisruptionBudget::deserialize(entry.value.value()).ok());
    budgets
        .filter(|budget| {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            Selector::from_label_selector(selector).is_ok_and(|selector| selector.matches(labels.as_ref()))
        })
        .filter_map(|budget| budget.metadata.name)
        .collect()
}

fn decide(pod: &Value, budget: &PodDisruptionBudget, now: Timestamp) -> Result<Verdict, ApiError> {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    let spec = budget.spec.clone().unwrap_or_default();
    let mut status = budget.status.clone().unwrap_or_default();
    let healthy = status.current_healthy.unwrap_or(0);
    let desired = status.desired_healthy.unwrap_or(0);
    if !is_ready(pod) {
        let always = spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow");
        if always || (healthy >= desired && desired > 0) {
            return Ok(Verdict::Free);
        }
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    let forbidden = |why: &str| Err(ApiError::forbidden(GROUP, "poddisruptionbudget", name, why));
    if status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many(REFUSED.to_owned(), &why, Some(10)));
    }
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = status.disrupted_pods.get_or_insert_with(BTreeMap::new);
    if disrupted.len() > MOST_DISRUPTED {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let why =
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        let failed = status.conditions.iter().flatten().find(|condition| {
            condition.type_ == CONDITION && condition.status == "False" && condition.reason == "SyncFailed"
        });
        let message = failed.map_or_else(
            || REFUSED.to_owned(),
            |condition| format!("{REFUSED} {}", condition.message),
        );
        return Err(too_many(message, &why, None));
    }
    disrupted.insert(meta::name(pod).to_owned(), Time(now));
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        let condition = Condition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: "InsufficientPods".to_owned(),
            observed_generation: status.observed_generation,
            last_transition_time: Time(now),
            message: String::new(),
        };
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|other| other.type_ != CONDITION);
        conditions.push(condition);
    }
    Ok(Verdict::Counted(Box::new(status)))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn too_many(message: String, cause: &str, retry_seconds: Option<u32>) -> ApiError {
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
    if let Some(seconds) = retry_seconds {
        details["retryAfterSeconds"] = seconds.into();
    }
    ApiError {
        details: Some(details),
        ..ApiError::new(429, "TooManyRequests", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": status}]}})
    }

    fn budget(policy: Option<&str>, allowed: i32, healthy: i32) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1},
            "spec": {"unhealthyPodEvictionPolicy": policy},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": 2},
        }))
        .expect("a budget")
    }

    #[test]
    fn a_budget_counts_ready_pods_and_lets_others_go_by_its_policy() {
        for (ready, policy, allowed, healthy, expected) in [
            (true, None, 1, 3, "counted"),
            (true, None, 0, 2, "refused"),
            (false, None, 0, 2, "free"),
            (false, None, 0, 1, "refused"),
            (false, Some("IfHealthyBudget"), 0, 1, "refused"),
            (false, Some("AlwaysAllow"), 0, 1, "free"),
            (true, Some("AlwaysAllow"), 0, 1, "refused"),
        ] {
            let verdict = decide(
                &pod(ready),
                &budget(policy, allowed, healthy),
                Timestamp::UNIX_EPOCH,
            );
            let found = match &verdict {
                Ok(Verdict::Free) => "free",
                Ok(Verdict::Counted(_)) => "counted",
                Err(_) => "refused",
            };
            assert_eq!(found, expected, "{ready} {policy:?} {allowed} {healthy}");
        }
    }

    #[test]
    fn the_last_eviction_says_that_no_more_are_allowed() {
        let verdict = decide(&pod(true), &budget(None, 1, 3), Timestamp::UNIX_EPOCH);
        let Ok(Verdict::Counted(status)) = verdict else {
            panic!("it is allowed: {verdict:?}");
        };
        assert_eq!(status.disruptions_allowed, Some(0));
        assert!(status.disrupted_pods.is_some_and(|pods| pods.contains_key("p")));
        assert_eq!(
            status.conditions.unwrap_or_default()[0].reason,
            "InsufficientPods"
        );
    }

    #[test]
    fn a_budget_that_was_not_looked_at_yet_is_asked_again_later() {
        let mut new = budget(None, 1, 3);
        new.metadata.generation = Some(2);
        let error = decide(&pod(true), &new, Timestamp::UNIX_EPOCH).expect_err("it is refused");
        assert_eq!(error.code, 429);
        let details = error.details.unwrap_or_default();
        assert_eq!(details["retryAfterSeconds"], 10);
    }
}
