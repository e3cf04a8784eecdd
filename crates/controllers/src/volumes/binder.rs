//! Binds claims to volumes, has volumes made, and takes care of those whose claim is gone. What to
//! do is decided in [`claim`] and [`volume`]; everything that writes is here.
//!
//! A claim and its volume are written by the claim's look alone, so that the two never race.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use stead_informer::semantics::volumes::{
    BIND_COMPLETED, SELECTED_NODE, annotation, bound_volume, claim_class, claim_ref, is_bound_to,
    is_too_small, phase, volume_class, volume_name,
};
use stead_informer::{Change, EventType, Informers, Key, Queue, Reconciled, Recorder, reference, run};
use tokio_util::sync::CancellationToken;

use super::LocalVolumes;
use super::claim::{self, Step, Told};
use super::directory::{self, DirectoryError};
use super::provision::{self, PROVISIONER};
use super::volume::{self, Fate, PROVISIONER_FINALIZER, Standing};
use crate::refused::{Refused, is_already_exists, is_conflict, is_not_found};
use crate::written::Written;

/// Claims and volumes that are looked at at a time.
const WORKERS: usize = 16;

/// Why a look has not come to its end; it is taken again.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error(transparent)]
    Api(#[from] Refused),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("volume {0} is there already, for another claim")]
    Taken(String),
    #[error("the work on a directory was broken off")]
    BrokenOff,
}

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Claim(Key),
    Volume(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Claim(key) => write!(f, "claim {key}"),
            Work::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The part of the controller that binds.
pub(super) struct Binder {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    local: Option<LocalVolumes>,
    queue: Queue<Work>,
    claims: Written<PersistentVolumeClaim>,
    volumes: Written<PersistentVolume>,
    /// What was last told of claims that wait, by uid, so that it is told once.
    told: Arc<Mutex<HashMap<String, Told>>>,
}

impl Binder {
    pub(super) fn new(
        client: Client,
        informers: &Informers,
        recorder: Recorder,
        local: Option<LocalVolumes>,
    ) -> Binder {
        let (queue, told) = (Queue::new(), Arc::default());
        listen(informers, &queue, &told);
        Binder {
            client,
            recorder,
            local,
            queue,
            claims: Written::new(&informers.claims),
            volumes: Written::new(&informers.volumes),
            told,
            informers: informers.clone(),
        }
    }

    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        if let Some(local) = &self.local {
            let root = local.directory.clone();
            if let Err(error) = on_disk(move || directory::sweep(&root)).await {
                tracing::warn!(%error, "what is left of former volumes was not removed");
            }
        }
        let binder = Arc::clone(&self);
        let reconcile = move |work: Work| {
            let binder = Arc::clone(&binder);
            async move {
                binder.claims.caught_up().await;
                binder.volumes.caught_up().await;
                match work {
                    Work::Claim(key) => binder.look_at_claim(&key).await?,
                    Work::Volume(name) => binder.look_at_volume(&name).await?,
                }
                Ok::<_, BindError>(Reconciled::Done)
            }
        };
        run(
            "persistentvolume-binder",
            self.queue.clone(),
            WORKERS,
            shutdown,
            reconcile,
            |work| match work {
                Work::Claim(key) => self.recorder.panicked(self.informers.claims.get(key).as_deref()),
                Work::Volume(name) => {
                    let volume = self.informers.volumes.get(&Key::new("", name));
                    self.recorder.panicked(volume.as_deref());
                }
            },
        )
        .await;
    }

    async fn look_at_claim(&self, key: &Key) -> Result<(), BindError> {
        let Some(claim) = self.informers.claims.get(key) else {
            return Ok(());
        };
        let class = claim_class(&claim)
            .filter(|name| !name.is_empty())
            .and_then(|name| self.informers.storage_classes.get(&Key::new("", name)));
        match claim::step(&claim, &self.informers.volumes.all(), class.as_ref()) {
            Step::Bind(volume) => self.bind(&claim, &volume, None).await,
            Step::Provision(class) => self.provision(&claim, &class).await,
            Step::Wait(why) => {
                if let Some(why) = why {
                    self.tell(&claim, why);
                }
                self.write_claim_status(&claim, "Pending", None).await
            }
            Step::Lost(why) => {
                self.write_claim_status(&claim, "Lost", None).await?;
                self.tell(&claim, why);
                Ok(())
            }
            Step::Leave => Ok(()),
        }
    }

    /// Tells a claim's user something, unless it was told last.
    fn tell(&self, claim: &PersistentVolumeClaim, what: Told) {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&uid) == Some(&what) {
            return;
        }
        self.recorder.record(
            reference(claim),
            what.event_type,
            what.reason,
            what.message.clone(),
        );
        told.insert(uid, what);
    }

    /// Binds: the volume first, which makes the decision; then the claim; then what both show.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        provisioner: Option<&str>,
    ) -> Result<(), BindError> {
        let volume = match bound_volume(volume, claim) {
            Some(bound) => self.replace_volume(&bound).await?,
            None => Some(volume.clone()),
        };
        let Some(volume) = volume else { return Ok(()) };
        let claim = match claim::bound_claim(claim, &volume, provisioner) {
            Some(bound) => self.replace_claim(&bound).await?,
            None => Some(claim.clone()),
        };
        let Some(claim) = claim else { return Ok(()) };
        let grown = self.grow(&claim, &volume).await?;
        let volume = grown.as_ref().unwrap_or(&volume);
        try_join(
            self.write_phase(volume, "Bound", None),
            self.write_claim_status(&claim, "Bound", Some(volume)),
        )
        .await?;
        if grown.is_some() {
            let message = "Resize volume succeeded";
            let about = reference(&claim);
            self.recorder.record(
                about,
                EventType::Normal,
                "VolumeResizeSuccessful",
                message.to_owned(),
            );
        }
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        if !is_too_small(&claim) || grown.is_some() {
            self.told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(uid);
        }
        Ok(())
    }

    /// Makes a volume as large as its claim asks for, if it is a directory of ours, which takes no more than saying
    /// so; others are left to those who made them.
    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<Option<PersistentVolume>, BindError> {
        if !is_too_small(claim) {
            return Ok(None);
        }
        let is_here =
            |local: &LocalVolumes| provision::is_on(volume, &local.node, self.node(local).as_deref());
        if volume::provisioner(volume) != Some(PROVISIONER) || !self.local.as_ref().is_some_and(is_here) {
            let what = Told {
                event_type: EventType::Normal,
                reason: "ExternalExpanding",
                message: "waiting for an external controller to expand this PVC".to_owned(),
            };
            self.tell(claim, what);
            return Ok(None);
        }
        match volume::grown(volume, claim) {
            Some(grown) => self.replace_volume(&grown).await,
            None => Ok(Some(volume.clone())),
        }
    }

    /// Has a volume made, here or by somebody else.
    async fn provision(&self, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<(), BindError> {
        let selected = annotation(&claim.metadata, SELECTED_NODE);
        let local = self.local.as_ref().filter(|local| {
            class.provisioner == PROVISIONER && selected.is_none_or(|node| node == local.node)
        });
        let Some(local) = local else {
            return self.hand_over(claim, &class.provisioner).await;
        };
        let node = self.node(local);
        let class_name = class.metadata.name.as_deref().unwrap_or_default();
        let fail = |why: &dyn fmt::Display| {
            let what = Told {
                event_type: EventType::Warning,
                reason: "ProvisioningFailed",
                message: format!("failed to provision volume with StorageClass \"{class_name}\": {why}"),
            };
            self.tell(claim, what);
        };
        if let Some(why) = provision::refusal(claim, class, node.as_deref()) {
            fail(&why);
            return self.write_claim_status(claim, "Pending", None).await;
        }
        let volume = match self.make_volume(claim, class, local, node.as_deref()).await {
            Ok(volume) => volume,
            Err(error) => {
                fail(&error);
                return Err(error);
            }
        };
        self.bind(claim, &volume, Some(PROVISIONER)).await?;
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Successfully provisioned volume {name}");
        self.recorder.record(
            reference(claim),
            EventType::Normal,
            "ProvisioningSucceeded",
            message,
        );
        Ok(())
    }

    /// Leaves a claim to a provisioner that runs elsewhere.
    async fn hand_over(&self, claim: &PersistentVolumeClaim, provisioner: &str) -> Result<(), BindError> {
        if let Some(handed) = claim::handed_over(claim, provisioner) {
            self.replace_claim(&handed).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
             manually by the system administrator. If volume creation is delayed, please verify that the \
             provisioner is running and correctly registered."
        );
        let what = Told {
            event_type: EventType::Normal,
            reason: "ExternalProvisioning",
            message,
        };
        self.tell(claim, what);
        Ok(())
    }

    fn node(&self, local: &LocalVolumes) -> Option<Arc<Node>> {
        self.informers.nodes.get(&Key::new("", local.node.as_str()))
    }

    /// Makes a claim's directory, which must be there before anything shows the volume, and then the
    /// volume. Both may be there from an attempt before.
    async fn make_volume(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        local: &LocalVolumes,
        node: Option<&Node>,
    ) -> Result<PersistentVolume, BindError> {
        let key = Key::of(claim);
        let name = provision::volume_name_for(claim);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let directory = directory::name(&name, &key.namespace, &key.name);
        let root = local.directory.clone();
        let path = on_disk(move || directory::make(&root, &directory)).await?;
        let hostname = provision::hostname(&local.node, node);
        let volume = provision::new_volume(claim, class, &path, &hostname);
        match api.create(&PostParams::default(), &volume).await {
            Ok(created) => {
                self.volumes.note(&created);
                Ok(created)
            }
            Err(error) if is_already_exists(&error) => {
                let existing = api
                    .get(&name)
                    .await
                    .map_err(Refused::to(format!("get volume {name}")))?;
                if is_bound_to(&existing, claim) {
                    Ok(existing)
                } else {
                    Err(BindError::Taken(name))
                }
            }
            Err(error) => Err(Refused::to(format!("create volume {name}"))(error).into()),
        }
    }

    async fn look_at_volume(&self, name: &str) -> Result<(), BindError> {
        let Some(volume) = self.informers.volumes.get(&Key::new("", name)) else {
            return Ok(());
        };
        let claim = self.claim_of(&volume).await?;
        let standing = volume::standing(&volume, claim.as_deref());
        let volume = match standing {
            Standing::Available => self.write_phase(&volume, "Available", None).await?,
            Standing::Awaiting | Standing::Bound => {
                let is_bound = standing == Standing::Bound && phase(&volume) == "Bound";
                if let Some(claim) = claim.filter(|_| !is_bound) {
                    self.queue.add(Work::Claim(Key::of(&*claim)));
                }
                return Ok(());
            }
            Standing::Superseded => {
                self.replace_volume(&volume::unbound(&volume)).await?;
                return Ok(());
            }
            // A volume that failed stays so while it is tried again.
            Standing::Released if phase(&volume) == "Failed" => Some(PersistentVolume::clone(&volume)),
            Standing::Released => self.write_phase(&volume, "Released", None).await?,
        };
        match volume {
            Some(volume) => self.dispose(&volume, standing).await,
            None => Ok(()),
        }
    }

    /// The claim that a volume refers to. That one is gone is nothing that a cache may decide.
    async fn claim_of(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, BindError> {
        let Some(reference) = claim_ref(volume).filter(|reference| reference.uid.is_some()) else {
            return Ok(None);
        };
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let name = reference.name.as_deref().unwrap_or_default();
        let cached = self.informers.claims.get(&Key::new(namespace, name));
        if let Some(claim) = cached.filter(|claim| claim.metadata.uid == reference.uid) {
            return Ok(Some(claim));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let found = api
            .get_opt(name)
            .await
            .map_err(Refused::to(format!("get claim {namespace}/{name}")))?;
        Ok(found.map(Arc::new))
    }

    /// Does with a volume's data what its policy says.
    async fn dispose(&self, volume: &PersistentVolume, standing: Standing) -> Result<(), BindError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        match volume::fate(volume, standing, PROVISIONER) {
            Fate::Keep => Ok(()),
            Fate::LetGo => self.let_go(volume).await,
            Fate::NoDeleter => {
                let why = format!(
                    "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
                );
                self.fail(volume, "VolumeFailedDelete", &why).await
            }
            Fate::NoRecycler => {
                self.fail(
                    volume,
                    "VolumeFailedRecycle",
                    "No recycler plugin found for the volume!",
                )
                .await
            }
            Fate::Delete => {
                let local = self.local.as_ref();
                let Some(local) =
                    local.filter(|local| provision::is_on(volume, &local.node, self.node(local).as_deref()))
                else {
                    return Ok(());
                };
                self.delete(volume, local).await
            }
        }
    }

    /// Says that nothing can be done with a volume, once.
    async fn fail(&self, volume: &PersistentVolume, reason: &str, why: &str) -> Result<(), BindError> {
        let is_told = phase(volume) == "Failed"
            && volume
                .status
                .as_ref()
                .and_then(|status| status.message.as_deref())
                == Some(why);
        if !is_told {
            self.write_phase(volume, "Failed", Some(why)).await?;
            self.recorder
                .record(reference(volume), EventType::Warning, reason, why);
        }
        Ok(())
    }

    /// Deletes a volume's data, and then the volume.
    async fn delete(&self, volume: &PersistentVolume, local: &LocalVolumes) -> Result<(), BindError> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        // What is deleted cannot be had back: the volume must still be as the cache has shown it.
        let fresh = api
            .get_opt(&name)
            .await
            .map_err(Refused::to(format!("get volume {name}")))?;
        let Some(fresh) = fresh.filter(|fresh| fresh.metadata.uid == volume.metadata.uid) else {
            return Ok(());
        };
        let claim = self.claim_of(&fresh).await?;
        let standing = volume::standing(&fresh, claim.as_deref());
        if volume::fate(&fresh, standing, PROVISIONER) != Fate::Delete {
            return Ok(());
        }
        let source = fresh.spec.as_ref().and_then(|spec| {
            let local = spec.local.as_ref().map(|local| &local.path);
            local.or(spec.host_path.as_ref().map(|host| &host.path))
        });
        let path = source.map(PathBuf::from).unwrap_or_default();
        let (root, own) = (local.directory.clone(), name.clone());
        if let Err(error) = on_disk(move || directory::remove(&root, &path, &own)).await {
            self.fail(&fresh, "VolumeFailedDelete", &error.to_string())
                .await?;
            return match error {
                // That will not change by itself.
                BindError::Directory(DirectoryError::Foreign(_)) => Ok(()),
                error => Err(error),
            };
        }
        self.let_go(&fresh).await?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: fresh.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("delete volume {name}"))(error).into()),
        }
    }

    /// Takes our finalizer from a volume.
    async fn let_go(&self, volume: &PersistentVolume) -> Result<(), BindError> {
        if !volume::is_held(volume) {
            return Ok(());
        }
        let mut free = volume.clone();
        if let Some(finalizers) = &mut free.metadata.finalizers {
            finalizers.retain(|name| name != PROVISIONER_FINALIZER);
        }
        self.replace_volume(&free).await.map(|_| ())
    }

    /// Writes a volume as it should be, unless it has changed meanwhile; none if it is gone.
    async fn replace_volume(&self, volume: &PersistentVolume) -> Result<Option<PersistentVolume>, BindError> {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.replace(name, &PostParams::default(), volume).await {
            Ok(written) => {
                self.volumes.note(&written);
                Ok(Some(written))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(Refused::to(format!("update volume {name}"))(error).into()),
        }
    }

    /// Writes a volume's phase, if it is another; none if the volume is gone.
    async fn write_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<Option<PersistentVolume>, BindError> {
        let Some(moved) = volume::in_phase(volume, phase, message) else {
            return Ok(Some(volume.clone()));
        };
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.replace_status(name, &PostParams::default(), &moved).await {
            Ok(written) => {
                self.volumes.note(&written);
                Ok(Some(written))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(Refused::to(format!("update the status of volume {name}"))(error).into()),
        }
    }

    async fn replace_claim(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<PersistentVolumeClaim>, BindError> {
        let key = Key::of(claim);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.replace(&key.name, &PostParams::default(), claim).await {
            Ok(written) => {
                self.claims.note(&written);
                Ok(Some(written))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(Refused::to(format!("update claim {key}"))(error).into()),
        }
    }

    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), BindError> {
        let status = claim::status(claim, phase, volume);
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let key = Key::of(claim);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let moved = PersistentVolumeClaim {
            status: Some(status),
            ..claim.clone()
        };
        match api
            .replace_status(&key.name, &PostParams::default(), &moved)
            .await
        {
            Ok(written) => {
                self.claims.note(&written);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Refused::to(format!("update the status of claim {key}"))(error).into()),
        }
    }
}

/// Does work on the disk where it holds nobody up.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static,
) -> Result<T, BindError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(BindError::BrokenOff),
    }
}

/// Notes what to look at when something changes.
fn listen(informers: &Informers, queue: &Queue<Work>, told: &Arc<Mutex<HashMap<String, Told>>>) {
    let (claims, known, told) = (queue.clone(), informers.volumes.clone(), Arc::clone(told));
    informers.claims.on_change(move |change| {
        let gone = match change {
            Change::Added(_) => None,
            Change::Updated { old, new } => (old.metadata.uid != new.metadata.uid).then_some(old),
            Change::Deleted(claim) => Some(claim),
        };
        let key = Key::of(&**change.object());
        if let Some(gone) = gone {
            let uid = gone.metadata.uid.as_deref().unwrap_or_default();
            told.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
            for volume in known.all().iter().filter(|volume| is_bound_to(volume, gone)) {
                claims.add(Work::Volume(volume.metadata.name.clone().unwrap_or_default()));
            }
        }
        claims.add(Work::Claim(key));
    });
    let (volumes, known) = (queue.clone(), informers.claims.clone());
    informers.volumes.on_change(move |change| {
        let volume = change.object();
        let name = volume.metadata.name.clone().unwrap_or_default();
        let was = match change {
            Change::Updated { old, .. } => claim_ref(old),
            Change::Added(_) | Change::Deleted(_) => None,
        };
        for reference in [was, claim_ref(volume)].into_iter().flatten() {
            let namespace = reference.namespace.clone().unwrap_or_default();
            volumes.add(Work::Claim(Key::new(
                namespace,
                reference.name.clone().unwrap_or_default(),
            )));
        }
        let is_there = !matches!(change, Change::Deleted(_));
        let is_free = is_there && claim_ref(volume).is_none() && phase(volume) == "Available";
        for claim in known.all() {
            let is_named = volume_name(&claim) == Some(name.as_str());
            let may_want = || is_free && is_unbound_of(&claim, volume_class(volume));
            if is_named || may_want() {
                volumes.add(Work::Claim(Key::of(&*claim)));
            }
        }
        if is_there {
            volumes.add(Work::Volume(name));
        }
    });
    let (classes, known) = (queue.clone(), informers.claims.clone());
    informers.storage_classes.on_change(move |change| {
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        for claim in known.all() {
            if is_unbound_of(&claim, name) {
                classes.add(Work::Claim(Key::of(&*claim)));
            }
        }
    });
}

/// Whether a claim of a class waits for a volume.
fn is_unbound_of(claim: &PersistentVolumeClaim, class: &str) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_none() && claim_class(claim).unwrap_or_default() == class
}
