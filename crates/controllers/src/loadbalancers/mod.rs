//! Addresses for Services of type `LoadBalancer`: one each, of the cluster's own pool, so that many of them can use
//! the same port. The node's proxy serves them; this machine and the pods reach them.
//!
//! Where they are opened to other machines, each has its ports of this machine, too: one whose ports another has, a
//! Service or a program, gets no address until they are free.
//!
//! All Services are looked at together, by one worker, so that nothing is given twice.

mod plan;

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::{Change, EventType, Informers, Key, Queue, Reconciled, Recorder, Task, reference, run};
use tokio_util::sync::CancellationToken;

use self::plan::{Step, has_node_ports, held, plan, wants};
use crate::refused::Refused;
use crate::written::Written;

/// All Services.
#[derive(Clone, PartialEq, Eq, Hash)]
struct All;

impl fmt::Display for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all services")
    }
}

/// Says whether no program of this machine waits at a port of a protocol.
pub type IsFree = Arc<plan::IsFree>;

/// When to look again at ports that programs have: nobody tells when they let go of them.
const PROGRAMS: Duration = Duration::from_secs(30);

/// The controller.
pub struct LoadBalancersController {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    pool: RangeInclusive<Ipv4Addr>,
    exposed: Option<IsFree>,
    queue: Queue<All>,
    written: Written<Service>,
    /// Why Services can have no address, as they were told.
    told: Mutex<HashMap<Key, String>>,
}

impl LoadBalancersController {
    /// A controller that hears of changes from now on, and gives out the addresses of `pool`; and ports of this
    /// machine, where Services are opened to others (`exposed`).
    pub fn new(
        client: Client,
        informers: &Informers,
        pool: RangeInclusive<Ipv4Addr>,
        exposed: Option<IsFree>,
        recorder: Recorder,
    ) -> Arc<LoadBalancersController> {
        let queue = Queue::new();
        let (changed, range, opens) = (queue.clone(), pool.clone(), exposed.is_some());
        informers.services.on_change(move |change: &Change<Service>| {
            let concerns = |service: &Service| wants(service) || held(service, &range).is_some();
            let concerns = |service: &Service| concerns(service) || opens && has_node_ports(service);
            // The API takes the address from a Service whose type changes.
            let before = match change {
                Change::Updated { old, .. } => concerns(old),
                Change::Added(_) | Change::Deleted(_) => false,
            };
            if before || concerns(change.object()) {
                changed.add(All);
            }
        });
        Arc::new(LoadBalancersController {
            client,
            informers: informers.clone(),
            recorder,
            pool,
            exposed,
            queue,
            written: Written::new(&informers.services),
            told: Mutex::default(),
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            let controller = Arc::clone(&self);
            let reconcile = move |All| {
                let controller = Arc::clone(&controller);
                async move { controller.reconcile().await }
            };
            run(
                "loadbalancers",
                self.queue.clone(),
                1,
                shutdown,
                reconcile,
                |_| {},
            )
            .await;
        })
    }

    async fn reconcile(&self) -> Result<Reconciled, Refused> {
        self.written.caught_up().await;
        let mut outcome = Ok(Reconciled::Done);
        let mut told = HashMap::new();
        let services = self.informers.services.all();
        for (service, step) in plan(&services, &self.pool, self.exposed.as_deref()) {
            let done = match step {
                Step::Give(address) => self.give(&service, address).await,
                Step::Take => self.take(&service).await,
                Step::Refuse(why) => {
                    if self.exposed.is_some() {
                        outcome = outcome.map(|_| Reconciled::Again(PROGRAMS));
                    }
                    told.insert(Key::of(&*service), why);
                    Ok(())
                }
            };
            // One that fails keeps no other from its address.
            if let Err(error) = done {
                outcome = Err(error);
            }
        }
        self.tell(told);
        outcome
    }

    async fn give(&self, service: &Service, address: Ipv4Addr) -> Result<(), Refused> {
        let ingress = json!([{"ip": address, "ipMode": "VIP"}]);
        self.write(service, json!({"ingress": ingress})).await?;
        self.record(service, "EnsuredLoadBalancer", "Ensured load balancer");
        Ok(())
    }

    async fn take(&self, service: &Service) -> Result<(), Refused> {
        self.write(service, json!(null)).await?;
        self.record(service, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    async fn write(&self, service: &Service, status: serde_json::Value) -> Result<(), Refused> {
        let Key { namespace, name } = Key::of(service);
        let api: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
        let version = &service.metadata.resource_version;
        let patch = json!({
            "metadata": {"resourceVersion": version}, "status": {"loadBalancer": status},
        });
        let written = api
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        let what = format!("update the status of Service {namespace}/{name}");
        self.written.settle(written, what).map(drop)
    }

    fn record(&self, service: &Service, reason: &str, message: &str) {
        self.recorder
            .record(reference(service), EventType::Normal, reason, message.to_owned());
    }

    /// Says why Services have no address, once.
    fn tell(&self, now: HashMap<Key, String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, why) in now.iter().filter(|(key, why)| told.get(key) != Some(why)) {
            if let Some(service) = self.informers.services.get(key) {
                let message = format!("Error syncing load balancer: failed to ensure load balancer: {why}");
                self.recorder.record(
                    reference(&*service),
                    EventType::Warning,
                    "SyncLoadBalancerFailed",
                    message,
                );
            }
        }
        *told = now;
    }
}
