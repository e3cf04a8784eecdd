//! What went wrong once, without chance: a set lives in peace, somebody does something, and it must come to rest.

use std::time::Duration;

use serde_json::json;

use super::api::{Verb, refusal};
use super::mutants::{Defect, NONE, SOUND};
use super::store::{Kind, time};
use super::world::{NAMESPACE, SET, State};
use super::{Process, end, simulate};

/// A set of two replicas with a claim each, as it is after a minute; and what is done to it then, or looked at.
fn check(defect: &'static Defect, then: impl FnOnce(&mut State)) {
    let outcome = simulate(1, true, async |world| {
        let set = json!({
            "metadata": {"name": SET, "namespace": NAMESPACE, "generation": 1},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "main", "image": "good:1"}]},
                },
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            },
            "status": {"replicas": 0},
        });
        {
            let mut state = world.lock();
            state.is_faulty = false;
            state.store.create(Kind::Sets, set, 0);
        }
        let _process = Process::start(world, defect);
        tokio::time::sleep(Duration::from_secs(60)).await;
        then(&mut world.lock());
        end::come_to_rest(world).await;
    });
    let trace = outcome.trace.join("\n");
    assert_eq!(outcome.wrong, None, "{trace}");
}

#[test]
fn a_claim_that_is_being_deleted_does_not_hold_up_an_update() {
    check(&SOUND, |state| {
        state.edit(Kind::Claims, "data-web-1", |claim| {
            claim["metadata"]["deletionTimestamp"] = time(60_000);
        });
        // Its identity is to be put right, too.
        state.edit(Kind::Pods, "web-1", |pod| {
            pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = json!("web-7");
        });
        state.edit(Kind::Sets, SET, |set| {
            set["metadata"]["generation"] = json!(2);
            set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("good:2");
        });
    });
}

/// A former set's revision, which garbage collection takes just then: the first that is made finds its name taken, and
/// nothing when it asks by what.
static TAKEN_AND_GONE: Defect = Defect {
    instead: |state, _, call| {
        let is_first = (call.verb, call.kind) == (Verb::Create, Kind::Revisions) && state.now() < 5;
        is_first.then(|| refusal(409, "AlreadyExists", "already exists"))
    },
    ..NONE
};

#[test]
fn a_revision_that_goes_meanwhile_leaves_its_name() {
    check(&TAKEN_AND_GONE, |state| {
        assert_eq!(state.images.len(), 1);
        let set = state.set().expect("the set");
        assert_eq!(set["status"]["collisionCount"], 0, "{set}");
    });
}
