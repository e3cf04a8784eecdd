//! What a Job's policies say: of a pod that failed, and of indexes that succeeded. See "Pod failure policy" and
//! "Success policy".

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use stead_informer::semantics::pods::condition;

use super::indexes::Indexes;

/// What a pod's failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts.
    Counted,
    /// It does not.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The Job has failed, for this reason.
    FailsJob(String),
}

/// What a policy says of a pod that failed: what the first rule does that fits it.
pub(super) fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.iter().flat_map(|policy| &policy.rules);
    for (at, rule) in rules.enumerate() {
        let meta = &pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        let who = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
        let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
        let action = &rule.action;
        let why = if let Some(codes) = &rule.on_exit_codes {
            exited(codes, pod).map(|(container, code)| {
                format!("Container {container} for pod {who} failed with exit code {code} matching {action} rule at index {at}")
            })
        } else {
            let pattern = patterns.iter().find(|pattern| shows(pattern, pod));
            pattern.map(|pattern| {
                format!(
                    "Pod {who} has condition {} matching {action} rule at index {at}",
                    pattern.type_
                )
            })
        };
        let Some(why) = why else { continue };
        return match action.as_str() {
            "Ignore" => Verdict::Ignored,
            "FailIndex" => Verdict::FailsIndex,
            "FailJob" => Verdict::FailsJob(why),
            _ => Verdict::Counted,
        };
    }
    Verdict::Counted
}

/// A container that failed with one of the exit codes.
fn exited<'p>(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &'p Pod) -> Option<(&'p str, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let code = |container: &ContainerStatus| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        Some(ended.exit_code).filter(|code| *code != 0)
    };
    containers
        .chain(status.init_container_statuses.iter().flatten())
        .filter(|container| {
            codes
                .container_name
                .as_ref()
                .is_none_or(|name| *name == container.name)
        })
        .filter_map(|container| Some((container.name.as_str(), code(container)?)))
        .find(|(_, code)| codes.values.contains(code) == (codes.operator == "In"))
}

fn shows(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> bool {
    let wanted = pattern.status.as_deref().unwrap_or("True");
    condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
}

/// The first rule by which enough indexes have succeeded.
pub(super) fn success(policy: &SuccessPolicy, completions: i32, succeeded: &Indexes) -> Option<usize> {
    policy.rules.iter().position(|rule| {
        let (found, all) = match &rule.succeeded_indexes {
            None => (succeeded.total(), completions),
            Some(list) => {
                let wanted = Indexes::parse(list, completions);
                (wanted.common(succeeded), wanted.total())
            }
        };
        found >= rule.succeeded_count.unwrap_or(all)
    })
}
