//! The endpoints controllers: Endpoints and EndpointSlices of services, from their pods or from
//! Endpoints made by hand.
//!
//! Upstream has three controllers for this (`endpoint`, `endpointslice`, `endpointslicemirroring`);
//! here one look at a service decides on all ([`plan`], pure) and writes what differs ([`apply`]).
//! There is no batching: looks at a service that come while one is under way become one.

mod apply;
mod mirror;
mod plan;
mod pods;
mod slices;
mod subsets;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use stead_informer::{
    Change, EventType, Informers, Key, Objects, Queue, Reconciled, Recorder, Task, reference,
};
use tokio_util::sync::CancellationToken;

use self::apply::{Applier, ApplyError};
use self::plan::Plan;
use self::pods::{NodeView, View};

/// Services that are looked at at a time.
const WORKERS: usize = 16;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The controller.
pub struct EndpointsController {
    informers: Informers,
    recorder: Recorder,
    queue: Queue<Key>,
    applier: Applier,
    /// Services that were seen to go; their Endpoints go too, whoever made them.
    gone: Arc<Mutex<HashSet<Key>>>,
}

impl EndpointsController {
    /// A controller that hears of changes from now on.
    pub fn new(client: Client, informers: &Informers, recorder: Recorder) -> Arc<EndpointsController> {
        let queue = Queue::new();
        let gone = Arc::default();
        listen(informers, &queue, &gone);
        let applier = Applier::new(client, informers);
        Arc::new(EndpointsController {
            informers: informers.clone(),
            recorder,
            queue,
            applier,
            gone,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let services = Objects {
                name: "endpoints",
                queue: self.queue.clone(),
                concurrency: WORKERS,
                informer: self.informers.services.clone(),
                recorder: self.recorder.clone(),
            };
            let look = |controller: Arc<Self>, key| async move { controller.reconcile(&key).await };
            services.run(self, shutdown, look).await;
        })
    }

    async fn reconcile(&self, key: &Key) -> Result<Reconciled, ApplyError> {
        self.applier.caught_up().await;
        let service = self.informers.services.get(key);
        let plan = self.plan(key, service.as_deref());
        if let Some(endpoints) = self.informers.endpoints.get(key) {
            self.report_unmirrored(&endpoints, &plan);
        }
        let applied = self.applier.apply(key, plan).await;
        if let (Some(service), Err(error)) = (service, &applied) {
            self.report(&service, error);
        }
        applied.map(|()| Reconciled::Done)
    }

    fn plan(&self, key: &Key, service: Option<&Service>) -> Plan {
        let endpoints = self.informers.endpoints.get(key);
        let slices = self.slices(key);
        let was_gone = self
            .gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        let Some(service) = service else {
            return plan::without_service(endpoints, &slices, was_gone);
        };
        let Some(spec) = service.spec.as_ref().filter(|_| plan::selects_pods(service)) else {
            return plan::for_hand_made(endpoints.as_deref(), &slices);
        };
        let selector = spec.selector.clone().unwrap_or_default();
        let mut pods = self.informers.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&selector, pod));
        let node = |name: &str| match self.informers.nodes.get(&Key::new("", name)) {
            None => NodeView::Missing,
            Some(node) => NodeView::Here {
                zone: zone(&node).map(str::to_owned),
            },
        };
        let view = View {
            service,
            spec,
            pods: &pods,
            node: &node,
        };
        plan::for_pods(&view, endpoints.as_deref(), &slices)
    }

    fn slices(&self, key: &Key) -> Vec<Arc<EndpointSlice>> {
        let mut slices = self.informers.slices.in_namespace(&key.namespace);
        slices.retain(|slice| service_of(slice) == Some(&key.name));
        slices
    }

    fn report_unmirrored(&self, endpoints: &k8s_openapi::api::core::v1::Endpoints, plan: &Plan) {
        let warn = |reason, message| {
            self.recorder
                .record(reference(endpoints), EventType::Warning, reason, message)
        };
        if plan.invalid > 0 {
            let message = format!(
                "Skipped {} invalid IP addresses when mirroring to EndpointSlices",
                plan.invalid
            );
            warn("InvalidIPAddress", message);
        }
        if plan.skipped > 0 {
            let message = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                mirror::MAX_ADDRESSES,
                plan.skipped + plan.invalid,
            );
            warn("TooManyAddressesToMirror", message);
        }
    }

    fn report(&self, service: &Service, error: &ApplyError) {
        let key = Key::of(service);
        let (reason, message) = match error {
            ApplyError::Endpoints(refused) => (
                "FailedToUpdateEndpoint",
                format!("Failed to update endpoint {key}: {}", refused.cause()),
            ),
            ApplyError::Slices(refused) => (
                "FailedToUpdateEndpointSlices",
                format!(
                    "Error updating Endpoint Slices for Service {key}: {}",
                    refused.cause()
                ),
            ),
            ApplyError::Stale(_) => return,
        };
        self.recorder
            .record(reference(service), EventType::Warning, reason, message);
    }
}

fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn service_of(slice: &EndpointSlice) -> Option<&String> {
    slice.metadata.labels.as_ref()?.get(slices::SERVICE_NAME)
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata
        .labels
        .as_ref()?
        .get(ZONE_LABEL)
        .map(String::as_str)
        .filter(|zone| !zone.is_empty())
}

/// Notes which services to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Key>, gone: &Arc<Mutex<HashSet<Key>>>) {
    let (services, gone) = (queue.clone(), Arc::clone(gone));
    informers.services.on_change(move |change| {
        let key = Key::of(&**change.object());
        if let Change::Deleted(_) = change {
            gone.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key.clone());
        }
        services.add(key);
    });
    let endpoints = queue.clone();
    informers
        .endpoints
        .on_change(move |change| endpoints.add(Key::of(&**change.object())));
    let slices = queue.clone();
    informers.slices.on_change(move |change| {
        let old = if let Change::Updated { old, .. } = change {
            Some(old)
        } else {
            None
        };
        for slice in old.into_iter().chain([change.object()]) {
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            if let Some(service) = service_of(slice) {
                slices.add(Key::new(namespace, service));
            }
        }
    });
    let (pods, known) = (queue.clone(), informers.services.clone());
    informers.pods.on_change(move |change| {
        let (old, new) = match change {
            Change::Updated { old, new } if !pods::differs(old, new) => return,
            Change::Updated { old, new } => (Some(old), new),
            Change::Added(pod) | Change::Deleted(pod) => (None, pod),
        };
        for service in known.in_namespace(new.metadata.namespace.as_deref().unwrap_or_default()) {
            let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
                continue;
            };
            if selects(selector, new) || old.is_some_and(|old| selects(selector, old)) {
                pods.add(Key::of(&*service));
            }
        }
    });
    let (nodes, known) = (queue.clone(), informers.services.clone());
    informers.nodes.on_change(move |change| {
        if let Change::Updated { old, new } = change
            && zone(old) == zone(new)
        {
            return;
        }
        for service in known.all() {
            if plan::selects_pods(&service) {
                nodes.add(Key::of(&*service));
            }
        }
    });
}
