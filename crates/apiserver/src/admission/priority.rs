//! Admission of priorities: what a pod's class means for it ("Pod Priority and Preemption").

use serde_json::Value;
use stead_api::error::ApiError;
use stead_api::kinds::priority_class::SYSTEM;
use stead_api::meta;

use crate::lookup::Resource;
use crate::server::Call;

const CLASSES: Resource<'static> = ("scheduling.k8s.io", "priorityclasses");
const GROUP: &str = CLASSES.0;

/// Gives a pod the priority of its class, which is the default class if it names none.
pub(super) fn admit_pod(call: &Call<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let refused = |pod: &Value, why: String| ApiError::forbidden("", "pods", meta::name(pod), &why);
    let name = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let class = if name.is_empty() {
        default_class(call)
    } else {
        let Some((_, class)) = call.server.find(CLASSES, "", name) else {
            return Err(refused(
                pod,
                format!("no PriorityClass with name {name} was found"),
            ));
        };
        Some(class.value())
    };
    if let Some(class) = &class {
        pod["spec"]["priorityClassName"] = meta::name(class).into();
    }
    let of_class = |field: &str| class.as_ref().map(|class| class[field].clone());
    let value = of_class("value").and_then(|value| value.as_i64()).unwrap_or(0);
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(refused(pod, why));
    }
    pod["spec"]["priority"] = value.into();
    let policy = of_class("preemptionPolicy").unwrap_or_else(|| "PreemptLowerPriority".into());
    let Some(policy) = policy.as_str() else {
        return Ok(());
    };
    let given = pod["spec"]["preemptionPolicy"].as_str();
    if let Some(given) = given.filter(|given| *given != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(refused(pod, why));
    }
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

/// Refuses a second default class.
pub(super) fn admit_class(call: &Call<'_>, class: &Value) -> Result<(), ApiError> {
    if class["globalDefault"] != true {
        return Ok(());
    }
    match default_class(call) {
        Some(other) if meta::name(&other) != meta::name(class) => {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                meta::name(&other)
            );
            Err(ApiError::forbidden(GROUP, CLASSES.1, meta::name(class), &why))
        }
        _ => Ok(()),
    }
}

/// Refuses to delete the system's classes.
pub(super) fn check_delete(name: &str) -> Result<(), ApiError> {
    if SYSTEM.iter().any(|(own, _, _)| *own == name) {
        let why = "this is a system priority class and cannot be deleted";
        return Err(ApiError::forbidden(GROUP, CLASSES.1, name, why));
    }
    Ok(())
}

/// The class of pods that name none. Two can be there after a race: the lesser one counts.
fn default_class(call: &Call<'_>) -> Option<Value> {
    call.server
        .all(CLASSES, "")
        .iter()
        .map(|class| class.value())
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64())
}
