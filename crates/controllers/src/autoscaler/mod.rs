//! Horizontal pod autoscaling: keeps the replicas of what an autoscaler names between its bounds.
//!
//! Every 15 seconds, and whenever an autoscaler changes, its target's scale is read. There is no API of metrics in
//! the cluster, as in a Kubernetes without a metrics server: within the bounds nothing is scaled, and the condition
//! `ScalingActive` says why. See "Horizontal Pod Autoscaling" in the Kubernetes documentation.

mod metrics;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::{
    Change, EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference,
};
use tokio_util::sync::CancellationToken;

use self::plan::{Condition, Decision, decide};
use crate::inventory::{Inventory, Item};
use crate::refused::Refused;
use crate::written::Written;

/// Autoscalers that are looked at at a time.
const WORKERS: usize = 5;
/// How often each is looked at.
const PERIOD: Duration = Duration::from_secs(15);

/// The controller.
pub struct AutoscalersController {
    client: Client,
    informers: Informers,
    inventory: Arc<Inventory>,
    recorder: Recorder,
    queue: Queue<Key>,
    written: Written<HorizontalPodAutoscaler>,
}

impl AutoscalersController {
    /// A controller that hears of changes from now on. `inventory` tells which resource a kind is.
    pub fn new(
        client: Client,
        informers: &Informers,
        inventory: &Arc<Inventory>,
        recorder: Recorder,
    ) -> Arc<AutoscalersController> {
        let queue = Queue::new();
        let changed = queue.clone();
        informers
            .autoscalers
            .on_change(move |change: &Change<HorizontalPodAutoscaler>| {
                changed.add(Key::of(&**change.object()));
            });
        Arc::new(AutoscalersController {
            client,
            informers: informers.clone(),
            inventory: Arc::clone(inventory),
            recorder,
            queue,
            written: Written::new(&informers.autoscalers),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            self.inventory.synced().await;
            let autoscalers = Objects {
                name: "horizontalpodautoscaler",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.autoscalers.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            autoscalers.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, Refused> {
        self.written.caught_up().await;
        let autoscaler = self.informers.autoscalers.get(key);
        let Some(autoscaler) = autoscaler.filter(|found| found.metadata.deletion_timestamp.is_none()) else {
            return Ok(Reconciled::Done);
        };
        let before = autoscaler.status.clone().unwrap_or_default();
        let mut status = before.clone();
        let mut said = Vec::new();
        match self.scale_of(&autoscaler).await {
            Ok((api, scale)) => {
                said.push(Condition::able("SucceededGetScale", plan::GOT_SCALE));
                self.follow(&autoscaler, &api, &scale, &mut status, &mut said)
                    .await;
            }
            Err(why) => said.push(Condition::unable(
                "FailedGetScale",
                format!("the HPA controller was unable to get the target's current scale: {why}"),
                ("FailedGetScale", why),
            )),
        }
        let now = Timestamp::now();
        for condition in said {
            if condition.set(&mut status, now) {
                for (reason, message) in condition.events {
                    let about = reference(&*autoscaler);
                    self.recorder.record(about, EventType::Warning, reason, message);
                }
            }
        }
        if status != before {
            self.write_status(key, &autoscaler, status).await?;
        }
        Ok(Reconciled::Again(PERIOD))
    }

    /// The target's scale, and the API that it was read from.
    async fn scale_of(&self, autoscaler: &HorizontalPodAutoscaler) -> Result<(Api<Item>, Scale), String> {
        let target = &autoscaler.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        let kinds = self.inventory.kinds();
        let kind = kinds.find(version, &target.kind).ok_or_else(|| {
            format!(
                "unable to determine resource for scale target reference: no matches for kind \"{}\" in group \"{}\"",
                target.kind,
                version.rsplit_once('/').map_or("", |(group, _)| group)
            )
        })?;
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        let api = kind.api(&self.client, namespace);
        let scale = api.get_scale(&target.name).await;
        let scale = scale.map_err(|error| Refused::to("get the scale")(error).cause())?;
        Ok((api, scale))
    }

    /// Scales the target, if its replicas are not within bounds.
    async fn follow(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        api: &Api<Item>,
        scale: &Scale,
        status: &mut HorizontalPodAutoscalerStatus,
        said: &mut Vec<Condition>,
    ) {
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let has_selector = scale.status.as_ref().is_some_and(|status| {
            status
                .selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty())
        });
        status.current_replicas = Some(current);
        let namespace = autoscaler.metadata.namespace.as_deref().unwrap_or_default();
        match decide(&autoscaler.spec, current, has_selector, namespace) {
            Decision::Stay { because } => {
                if because.reason == plan::SCALING_DISABLED {
                    status.desired_replicas = current;
                }
                said.push(because);
            }
            Decision::Rescale { to, because } => {
                let name = &autoscaler.spec.scale_target_ref.name;
                let version = &scale.metadata.resource_version;
                let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": to}});
                let scaled = api
                    .patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await;
                match scaled {
                    Ok(_) => {
                        status.desired_replicas = to;
                        status.last_scale_time = Some(Time(Timestamp::now()));
                        said.push(Condition::able(
                            "SucceededRescale",
                            &format!("the HPA controller was able to update the target scale to {to}"),
                        ));
                        let message = format!("New size: {to}; reason: {because}");
                        self.recorder.record(
                            reference(autoscaler),
                            EventType::Normal,
                            "SuccessfulRescale",
                            message,
                        );
                    }
                    Err(error) => {
                        let why = Refused::to("scale the target")(error).cause();
                        said.push(Condition::unable(
                            "FailedUpdateScale",
                            format!("the HPA controller was unable to update the target scale: {why}"),
                            (
                                "FailedRescale",
                                format!("New size: {to}; reason: {because}; error: {why}"),
                            ),
                        ));
                    }
                }
            }
        }
    }

    async fn write_status(
        &self,
        key: &Key,
        autoscaler: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), Refused> {
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut updated = autoscaler.clone();
        updated.status = Some(status);
        let written = api
            .replace_status(&key.name, &PostParams::default(), &updated)
            .await;
        let what = format!("update the status of autoscaler {}", key.name);
        self.written.settle(written, what).map(drop)
    }
}
