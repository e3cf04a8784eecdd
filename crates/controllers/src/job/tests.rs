use serde_json::{Value, json};

use super::plan::{Change, News, Plan, plan};
use super::pod::TRACKING;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_704_067_200 + second).expect("a time")
}

/// A Job of these fields of its spec.
fn job(spec: Value) -> Job {
    let mut all = json!({
        "parallelism": 1, "backoffLimit": 6, "selector": {"matchLabels": {"j": "x"}},
        "template": {"metadata": {"labels": {"j": "x"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
    });
    for (field, value) in spec.as_object().expect("fields") {
        all[field] = value.clone();
    }
    let job = json!({"metadata": {"name": "job", "namespace": "ns", "uid": "u"}, "spec": all});
    serde_json::from_value(job).expect("a Job")
}

/// A cluster in which only a Job's controller acts, and each action does what it is to do.
struct World {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: i64,
    news: Vec<News>,
    again: Option<Timestamp>,
}

impl World {
    fn new(spec: Value) -> World {
        World {
            job: job(spec),
            pods: Vec::new(),
            made: 0,
            now: 0,
            news: Vec::new(),
            again: None,
        }
    }

    /// Lets the controller look until it has nothing more to do.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..100 {
            if !self.look() {
                return self;
            }
        }
        panic!("never at rest: {:?}", self.job.status);
    }

    /// One look; says whether it changed anything.
    fn look(&mut self) -> bool {
        if self.job.status.as_ref().and_then(status::ended_at).is_some() {
            return false;
        }
        let before = self.pods.clone();
        let seen: Vec<&Pod> = before.iter().collect();
        let spec = self.job.spec.clone().expect("a spec");
        let plan = plan(&self.job, &spec, &seen, at(self.now));
        self.check(&plan);
        let status = self.job.status.replace(plan.status.clone());
        self.news.extend(plan.news);
        self.again = plan.again;
        let untracked: Vec<_> = plan.untrack.iter().map(|pod| pod.metadata.uid.clone()).collect();
        match plan.change {
            Change::None => {}
            Change::Create(pods) => pods.into_iter().for_each(|pod| self.add(pod)),
            Change::Fail(gone) => gone.into_iter().for_each(|pod| self.go(pod, false)),
            Change::Remove(gone) => gone.into_iter().for_each(|pod| self.go(pod, true)),
        }
        self.untrack(&untracked);
        self.job.status != status || self.pods != before
    }

    /// What must hold of every plan.
    fn check(&self, plan: &Plan<'_>) {
        let status = &plan.status;
        let spec = self.job.spec.as_ref().expect("a spec");
        let count = |count: Option<i32>| count.unwrap_or(0);
        let old = self.job.status.clone().unwrap_or_default();
        assert!(
            count(status.failed) >= count(old.failed),
            "failures are never forgotten"
        );
        assert!(
            count(status.ready) <= count(status.active),
            "what is ready is active"
        );
        if spec.completions.is_some() {
            assert!(count(status.active) <= spec.parallelism.unwrap_or(1).max(count(old.active)));
        }
        if status::ended_at(status).is_some() {
            assert_eq!(
                (count(status.active), count(status.terminating)),
                (0, 0),
                "nothing is left"
            );
            let tracked = self.pods.iter().filter(|pod| is_tracked(pod)).count();
            assert_eq!(tracked, 0, "all have been counted");
        }
    }

    fn add(&mut self, mut pod: Pod) {
        self.made += 1;
        pod.metadata.name = Some(format!("p{}", self.made));
        pod.metadata.uid = pod.metadata.name.clone();
        pod.status = serde_json::from_value(json!({"phase": "Running"})).expect("a status");
        self.pods.push(pod);
    }

    fn go(&mut self, gone: &Pod, untrack: bool) {
        let uid = gone.metadata.uid.clone();
        if untrack {
            self.untrack(std::slice::from_ref(&uid));
        }
        let pod = self.pods.iter_mut().find(|pod| pod.metadata.uid == uid);
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(self.now));
        pod.expect("a pod").metadata.deletion_timestamp = Some(time);
    }

    fn untrack(&mut self, uids: &[Option<String>]) {
        for pod in self
            .pods
            .iter_mut()
            .filter(|pod| uids.contains(&pod.metadata.uid))
        {
            pod.metadata.finalizers = None;
        }
    }

    /// Pods end, at this time; what is on its way out is gone when it has no finalizer.
    fn end(&mut self, name: &str, code: i32) -> &mut Self {
        let pod = self
            .pods
            .iter_mut()
            .find(|pod| pod.metadata.name.as_deref() == Some(name));
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let ended = json!({"exitCode": code, "finishedAt": at(self.now).to_string()});
        pod.expect("a pod").status = serde_json::from_value(json!({
            "phase": phase,
            "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": ended}}],
        }))
        .expect("a status");
        self
    }

    fn reap(&mut self) -> &mut Self {
        self.pods
            .retain(|pod| pod.metadata.deletion_timestamp.is_none() || is_tracked(pod));
        self
    }

    fn after(&mut self, seconds: i64) -> &mut Self {
        self.now += seconds;
        self
    }

    /// active, succeeded, failed, terminating; and the conditions that hold.
    fn state(&self) -> (i32, i32, i32, i32, String) {
        let status = self.job.status.clone().unwrap_or_default();
        let holding = status
            .conditions
            .iter()
            .flatten()
            .filter(|condition| condition.status == "True");
        let conditions: Vec<&str> = holding.map(|condition| condition.type_.as_str()).collect();
        (
            status.active.unwrap_or(0),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0),
            status.terminating.unwrap_or(0),
            conditions.join(" "),
        )
    }

    fn reason(&self) -> String {
        let status = self.job.status.as_ref().expect("a status");
        let ended = status.conditions.iter().flatten().last();
        ended
            .and_then(|condition| condition.reason.clone())
            .unwrap_or_default()
    }
}

fn state(
    active: i32,
    succeeded: i32,
    failed: i32,
    terminating: i32,
    conditions: &str,
) -> (i32, i32, i32, i32, String) {
    (active, succeeded, failed, terminating, conditions.to_owned())
}

#[test]
fn a_job_is_complete_when_its_pods_have_succeeded_and_are_counted() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(world.settle().state(), state(2, 0, 0, 0, ""));
    assert_eq!(world.pods[0].metadata.finalizers, Some(vec![TRACKING.to_owned()]));
    assert_eq!(world.end("p1", 0).settle().state(), state(2, 1, 0, 0, ""));
    world.end("p2", 0).end("p3", 0).settle();
    assert_eq!(world.state(), state(0, 3, 0, 0, "SuccessCriteriaMet Complete"));
    assert_eq!((world.made, world.reason().as_str()), (3, "CompletionsReached"));
    assert_eq!(world.news, [News::Completed { too_many: false }]);
    assert!(
        world
            .job
            .status
            .as_ref()
            .is_some_and(|status| status.completion_time.is_some())
    );
}

#[test]
fn without_completions_one_success_is_enough_and_the_rest_ends_as_it_will() {
    let mut world = World::new(json!({"parallelism": 3}));
    world.settle();
    assert_eq!(world.end("p2", 0).settle().state(), state(2, 1, 0, 0, ""));
    world.end("p1", 1).end("p3", 0).settle();
    assert_eq!(world.state(), state(0, 2, 1, 0, "SuccessCriteriaMet Complete"));
    assert_eq!(world.made, 3);
}

#[test]
fn failed_pods_are_replaced_later_each_time_until_the_limit() {
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 2}));
    world.settle().end("p1", 1).settle();
    assert_eq!((world.made, world.again), (1, Some(at(10))));
    assert_eq!(world.after(10).settle().made, 2);
    world.end("p2", 1).after(19).settle();
    assert_eq!((world.made, world.again), (2, Some(at(30))));
    assert_eq!(world.after(1).settle().made, 3);
    world.end("p3", 1).settle();
    assert_eq!(world.state(), state(0, 0, 3, 0, "FailureTarget Failed"));
    assert_eq!(world.reason(), "BackoffLimitExceeded");
}

#[test]
fn a_job_past_its_deadline_has_failed_once_its_pods_are_gone() {
    let mut world = World::new(json!({"completions": 1, "activeDeadlineSeconds": 3}));
    world.settle();
    assert_eq!(world.again, Some(at(3)));
    world.after(3).settle();
    assert_eq!(world.state(), state(0, 0, 1, 1, "FailureTarget"));
    assert_eq!(
        world.reap().settle().state(),
        state(0, 0, 1, 0, "FailureTarget Failed")
    );
    assert_eq!(world.reason(), "DeadlineExceeded");
}

#[test]
fn a_suspended_job_has_no_pods_and_none_counts() {
    let mut world = World::new(json!({"completions": 1, "suspend": true}));
    assert_eq!(world.settle().state(), state(0, 0, 0, 0, "Suspended"));
    let suspend = |world: &mut World, value| world.job.spec.as_mut().expect("a spec").suspend = Some(value);
    suspend(&mut world, false);
    assert_eq!(world.after(5).settle().state(), state(1, 0, 0, 0, ""));
    assert_eq!(
        world
            .job
            .status
            .as_ref()
            .and_then(|status| status.start_time.clone())
            .map(|time| time.0),
        Some(at(5))
    );
    suspend(&mut world, true);
    world.settle();
    assert_eq!(world.reap().settle().state(), state(0, 0, 0, 0, "Suspended"));
    suspend(&mut world, false);
    world.settle().end("p2", 0).settle();
    assert_eq!(world.state(), state(0, 1, 0, 0, "SuccessCriteriaMet Complete"));
    let told = [
        News::Suspended,
        News::Resumed,
        News::Suspended,
        News::Resumed,
        News::Completed { too_many: false },
    ];
    assert_eq!(world.news, told);
}

#[test]
fn each_index_has_its_own_pod_name_and_variable() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}));
    world.settle();
    let pod = &world.pods[1];
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("job-1-"));
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("job-1"));
    let env = spec.containers[0].env.as_ref().expect("variables");
    assert_eq!(env[0].name, "JOB_COMPLETION_INDEX");
    world.end("p1", 0).end("p3", 0).end("p2", 1).after(10).settle();
    let completed = |world: &World| {
        world
            .job
            .status
            .as_ref()
            .and_then(|status| status.completed_indexes.clone())
    };
    assert_eq!((world.made, completed(&world).as_deref()), (4, Some("0,2")));
    assert_eq!(world.pods[3].metadata.generate_name.as_deref(), Some("job-1-"));
    world.end("p4", 0).settle();
    assert_eq!(completed(&world).as_deref(), Some("0-2"));
    assert_eq!(world.state(), state(0, 3, 1, 0, "SuccessCriteriaMet Complete"));
}

#[test]
fn indexes_fail_by_themselves_where_each_has_a_limit() {
    let mut world = World::new(json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX,
    }));
    world.settle().end("p1", 1).settle();
    assert_eq!((world.made, world.again), (2, Some(at(10))));
    assert!(is_tracked(&world.pods[0]), "it stays until it is replaced");
    world.after(10).settle();
    assert!(!is_tracked(&world.pods[0]));
    let failures = &world.pods[2].metadata.annotations.as_ref().expect("annotations")["batch.kubernetes.io/job-index-failure-count"];
    assert_eq!(failures, "1");
    world.end("p3", 1).end("p2", 0).settle();
    let status = world.job.status.clone().expect("a status");
    assert_eq!(status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(status.completed_indexes.as_deref(), Some("1"));
    assert_eq!(world.state(), state(0, 1, 2, 0, "FailureTarget Failed"));
    assert_eq!(world.reason(), "FailedIndexes");
}

#[test]
fn a_failure_policy_ignores_or_fails_the_job() {
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let mut world = World::new(json!({
        "completions": 1, "parallelism": 1, "backoffLimit": 0, "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [rule("Ignore", 3), rule("FailJob", 42)]},
    }));
    world.settle().end("p1", 3).settle();
    assert_eq!(world.state(), state(0, 0, 0, 0, ""));
    world.after(10).settle().end("p2", 42).settle();
    assert_eq!(world.state(), state(0, 0, 1, 0, "FailureTarget Failed"));
    let why = "Container c for pod ns/p2 failed with exit code 42 matching FailJob rule at index 1";
    assert_eq!(
        world.news,
        [News::Failed(status::Cause::new("PodFailurePolicy", why))]
    );
}

#[test]
fn enough_successes_by_policy_end_a_job_and_its_other_pods() {
    let mut world = World::new(json!({
        "completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]},
    }));
    world.settle().end("p3", 0).settle();
    assert_eq!(world.state(), state(2, 1, 0, 0, ""));
    world.end("p2", 0).settle();
    assert_eq!(world.state(), state(0, 2, 0, 1, "SuccessCriteriaMet"));
    world.reap().settle();
    assert_eq!(world.state(), state(0, 2, 0, 0, "SuccessCriteriaMet Complete"));
    assert_eq!(world.reason(), "SuccessPolicy");
}

#[test]
fn a_deleted_pod_is_replaced_at_once_or_when_it_has_ended() {
    for (policy, made) in [("TerminatingOrFailed", 2), ("Failed", 1)] {
        let mut world = World::new(json!({"completions": 1, "podReplacementPolicy": policy}));
        world.settle();
        let pod = world.pods[0].clone();
        world.go(&pod, false);
        world.after(60).settle();
        assert_eq!(world.made, made, "{policy}");
    }
}

#[test]
fn fewer_at_a_time_takes_pods_away_without_counting_them() {
    let mut world = World::new(json!({"completions": 5, "parallelism": 3}));
    world.settle();
    world.job.spec.as_mut().expect("a spec").parallelism = Some(1);
    world.settle();
    assert_eq!(world.state(), state(1, 0, 0, 2, ""));
    assert_eq!(world.reap().settle().state(), state(1, 0, 0, 0, ""));
}

#[test]
fn no_pods_are_needed_for_no_completions() {
    let mut world = World::new(json!({"completions": 0}));
    assert_eq!(
        world.settle().state(),
        state(0, 0, 0, 0, "SuccessCriteriaMet Complete")
    );
    assert_eq!(world.made, 0);
}
