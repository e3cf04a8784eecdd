//! The volume controllers: claims get their volumes, and volumes are kept or deleted when claims go.
//!
//! Upstream's `persistentvolume-binder`, `persistentvolumeclaim-protection` and
//! `persistentvolume-protection`, and a provisioner of directories on the node, as
//! `rancher/local-path` is one. The provisioner is called by the binder itself: a claim whose class
//! is ours gets directory, volume and binding in one look.
//!
//! What must never happen here is that a claim's data is lost: nothing is released or deleted
//! because a cache says so, only after the API has been asked ([`binder`]), and a directory goes
//! only if its name is that of the volume ([`directory`]).

mod binder;
mod claim;
mod default_class;
mod directory;
mod protection;
mod provision;
mod volume;

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join3;
use kube::Client;
use stead_informer::{Informers, Recorder, Task};
use tokio_util::sync::CancellationToken;

use self::binder::Binder;
use self::protection::Protection;
pub use self::provision::PROVISIONER;

/// Where volumes of class `standard` are made.
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    /// The node whose disk it is.
    pub node: String,
    /// The directory with a directory for each volume. It is made when it is needed.
    pub directory: PathBuf,
}

/// The controller.
pub struct VolumesController {
    client: Client,
    informers: Informers,
    binder: Arc<Binder>,
    protection: Arc<Protection>,
}

impl VolumesController {
    /// A controller that hears of changes from now on. Without `local`, claims of our own
    /// provisioner's classes wait for one that runs elsewhere.
    pub fn new(
        client: Client,
        informers: &Informers,
        recorder: Recorder,
        local: Option<LocalVolumes>,
    ) -> Arc<VolumesController> {
        Arc::new(VolumesController {
            protection: Arc::new(Protection::new(client.clone(), informers, recorder.clone())),
            binder: Arc::new(Binder::new(client.clone(), informers, recorder, local)),
            informers: informers.clone(),
            client,
        })
    }

    /// Works until cancelled.
    pub fn run(self: Arc<Self>, shutdown: CancellationToken) -> Task {
        Box::pin(async move {
            self.informers.synced().await;
            join3(
                default_class::ensure(&self.client, &self.informers, &shutdown),
                Arc::clone(&self.binder).run(shutdown.clone()),
                Arc::clone(&self.protection).run(shutdown.clone()),
            )
            .await;
        })
    }
}
