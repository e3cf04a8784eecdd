//! Quotas: what an object counts for is added to `status.used` in the transaction that writes it.
//!
//! So the count is never behind, however many write at once: whoever loses the race for a quota looks
//! again. What becomes less (objects that go, pods that end) is put right by the controller of quotas, which
//! also says what is in force: a quota without a status bounds nothing yet. See "Resource Quotas".

use k8s_openapi::api::core::v1::{PodSpec, ResourceQuota};
use serde::Deserialize as _;
use serde_json::Value;
use stead_api::error::ApiError;
use stead_api::meta;
use stead_api::quantity::Quantity;
use stead_api::quota::{Amounts, amounts, counts, unstated, usage};
use stead_store::{Condition, Revision, Txn};

use crate::server::Call;
use crate::stored::{encode, key};

/// The quotas that a write counts in, as they will be.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    quotas: Vec<Charged>,
}

#[derive(Debug)]
struct Charged {
    key: String,
    revision: Revision,
    quota: Value,
}

impl Charge {
    /// Makes it part of the write.
    pub(crate) fn add_to(&self, txn: Txn) -> Txn {
        self.quotas.iter().fold(txn, |txn, charged| {
            let unchanged = Condition::Unchanged(charged.revision);
            txn.put(charged.key.clone(), encode(&charged.quota), unchanged)
        })
    }

    /// Whether a key is of one of the quotas.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.quotas.iter().any(|charged| charged.key == key)
    }
}

/// Counts an object that is to be written, and refuses it where a quota has no room for it.
pub(crate) fn charge(call: &Call<'_>, new: &Value, before: Option<&Value>) -> Result<Charge, ApiError> {
    let kind = call.kind;
    let resource = (kind.group, kind.plural);
    // No other kinds become more by an update.
    let can_grow = matches!(resource, ("", "services" | "persistentvolumeclaims"));
    let Some(quotas) = call.server.registry.resource("", "v1", "resourcequotas") else {
        return Ok(Charge::default());
    };
    if !kind.namespaced || (before.is_some() && !can_grow) {
        return Ok(Charge::default());
    }
    let snapshot = call.server.store.snapshot();
    let prefix = key::prefix(quotas, meta::namespace(new));
    let mut charge = Charge::default();
    for (quota_key, entry) in snapshot.prefix(&prefix) {
        let mut value = entry.value.value();
        let quota = ResourceQuota::deserialize(&value).map_err(ApiError::internal)?;
        let refused = |why: String| ApiError::forbidden(kind.group, kind.plural, meta::name(new), &why);
        if let Some(used) = count(&quota, resource, new, before).map_err(refused)? {
            for (name, amount) in used {
                value["status"]["used"][name] = amount.to_string().into();
            }
            charge.quotas.push(Charged {
                key: quota_key.to_string(),
                revision: entry.mod_revision,
                quota: value,
            });
        }
    }
    Ok(charge)
}

/// What a quota will have used with the object written; none if that changes nothing, or why it may not be written.
fn count(
    quota: &ResourceQuota,
    resource: (&str, &str),
    new: &Value,
    before: Option<&Value>,
) -> Result<Option<Amounts>, String> {
    let spec = quota.spec.clone().unwrap_or_default();
    if !counts(&spec, resource, new) {
        return Ok(None);
    }
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (amounts(status.hard.as_ref()), amounts(status.used.as_ref()));
    if resource == ("", "pods")
        && before.is_none()
        && let Ok(pod) = PodSpec::deserialize(&new["spec"])
        && let Some(why) = unstated(&pod, hard.keys().map(String::as_str))
    {
        return Err(format!("failed quota: {name}: {why}"));
    }
    let mut asked = usage(resource.0, resource.1, new);
    if let Some(before) = before.filter(|before| counts(&spec, resource, before)) {
        for (name, amount) in usage(resource.0, resource.1, before) {
            let more = asked.entry(name).or_insert(Quantity::ZERO);
            *more = *more - amount;
        }
    }
    // What is not in force yet is being counted, by somebody who would miss this: the quota is written as it is, so
    // that it has changed since it was read.
    let bounded = amounts(spec.hard.as_ref());
    let is_pending = asked
        .keys()
        .any(|name| bounded.contains_key(name) && !hard.contains_key(name));
    asked.retain(|name, _| hard.contains_key(name));
    let unknown: Vec<&str> = asked
        .keys()
        .filter(|name| !used.contains_key(*name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        let resources = unknown.join(",");
        return Err(format!(
            "status unknown for quota: {name}, resources: {resources}"
        ));
    }
    asked.retain(|_, amount| !amount.is_zero());
    let sum: Amounts = asked
        .iter()
        .map(|(name, amount)| (name.clone(), used[name] + *amount))
        .collect();
    let is_exceeded = |name: &String| !asked[name].is_negative() && sum[name].exceeds(hard[name]);
    let exceeded: Vec<&String> = asked.keys().filter(|name| is_exceeded(name)).collect();
    if !exceeded.is_empty() {
        let shown = |amounts: &Amounts| {
            let parts: Vec<String> = exceeded
                .iter()
                .map(|name| format!("{name}={}", amounts[*name]))
                .collect();
            parts.join(",")
        };
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            shown(&asked),
            shown(&used),
            shown(&hard)
        ));
    }
    Ok((is_pending || !sum.is_empty()).then_some(sum))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::services::tests::Fixture;

    fn quota(hard: &Value, used: &Value) -> ResourceQuota {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}});
        serde_json::from_value(quota).expect("a quota")
    }

    fn pod(requests: &Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
    }

    fn check(quota: &ResourceQuota, pod: &Value, expected: Result<Option<&[(&str, &str)]>, &str>) {
        let used = count(quota, ("", "pods"), pod, None);
        let used = used.map(|used| {
            used.map(|used| {
                used.iter()
                    .map(|(name, amount)| (name.clone(), amount.to_string()))
                    .collect::<Vec<_>>()
            })
        });
        let own = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(used, expected.map(|used| used.map(own)).map_err(str::to_owned));
    }

    #[test]
    fn what_is_written_is_counted_or_refused() {
        let cpu = json!({"cpu": "600m"});
        let hard = json!({"pods": "2", "requests.cpu": "1"});
        check(
            &quota(&hard, &json!({"pods": "0", "requests.cpu": "0"})),
            &pod(&cpu),
            Ok(Some(&[("pods", "1"), ("requests.cpu", "600m")])),
        );
        check(
            &quota(&hard, &json!({"pods": "1", "requests.cpu": "600m"})),
            &pod(&cpu),
            Err(
                "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1",
            ),
        );
        check(
            &quota(&hard, &json!({"pods": "0", "requests.cpu": "0"})),
            &pod(&json!({})),
            Err("failed quota: q: must specify requests.cpu for: c"),
        );
        check(
            &quota(&json!({"pods": "2"}), &json!({})),
            &pod(&cpu),
            Err("status unknown for quota: q, resources: pods"),
        );
        check(
            &quota(&json!({"secrets": "0"}), &json!({"secrets": "0"})),
            &pod(&cpu),
            Ok(None),
        );
        let without_status: ResourceQuota =
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}))
                .expect("a quota");
        check(&without_status, &pod(&cpu), Ok(Some(&[])));
    }

    #[test]
    fn an_update_counts_what_it_adds() {
        let claim = |storage: &str| json!({"spec": {"resources": {"requests": {"storage": storage}}}});
        let quota = quota(
            &json!({"requests.storage": "15Mi"}),
            &json!({"requests.storage": "10Mi"}),
        );
        let resource = ("", "persistentvolumeclaims");
        let grown = count(&quota, resource, &claim("12Mi"), Some(&claim("10Mi"))).expect("room");
        assert_eq!(grown.expect("more")["requests.storage"].to_string(), "12Mi");
        assert!(count(&quota, resource, &claim("20Mi"), Some(&claim("10Mi"))).is_err());
        assert_eq!(
            count(&quota, resource, &claim("10Mi"), Some(&claim("10Mi"))),
            Ok(None)
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_at_once_use_no_more_than_there_is() {
        let fixture = Fixture::start().await;
        let quotas = "/api/v1/namespaces/default/resourcequotas";
        let hard = json!({"configmaps": "5"});
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
        assert_eq!(fixture.send("POST", quotas, &quota).await.0, 201);
        let status = json!({"status": {"hard": hard, "used": {"configmaps": "0"}}});
        let path = format!("{quotas}/q/status");
        assert_eq!(fixture.send("PATCH", &path, &status).await.0, 200);
        let created = futures::future::join_all((0..40).map(|number| {
            let map = json!({"metadata": {"name": format!("map-{number}")}});
            let fixture = &fixture;
            async move {
                fixture
                    .send("POST", "/api/v1/namespaces/default/configmaps", &map)
                    .await
                    .0
            }
        }))
        .await;
        let count = |code: u16| created.iter().filter(|answered| **answered == code).count();
        assert_eq!((count(201), count(403)), (5, 35));
        let (_, quota) = fixture.send("GET", &format!("{quotas}/q"), &Value::Null).await;
        assert_eq!(quota["status"]["used"]["configmaps"], json!("5"));
    }
}
