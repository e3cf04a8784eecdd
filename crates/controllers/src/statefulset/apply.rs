//! Carries out what the planner decided. Everything that writes is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use stead_informer::{EventType, Informers, Key, Recorder, reference};

use super::growth;
use super::identity::{claim_name, claim_templates, fix, new_claims, new_pod, pod_name};
use super::observe::claim_names;
use super::ordinals::Ordinals;
use super::retention::{PodRef, has_other_controller, wanted_owners};
use super::state::{Action, Ordinal, Revision};
use super::wrote::Wrote;

/// Actions of one look that are under way at a time.
const CONCURRENCY: usize = 32;

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// The API refused a write.
    #[error("{what}: {source}")]
    Api {
        /// What was to be written.
        what: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// A claim that is on its way out cannot be used, nor made anew yet.
    #[error("pvc {0} is being deleted")]
    ClaimDeleting(String),
}

/// A set, and what its actions need.
pub(super) struct Applier<'a> {
    pub(super) client: &'a Client,
    pub(super) informers: &'a Informers,
    pub(super) recorder: &'a Recorder,
    pub(super) set: &'a Arc<StatefulSet>,
    /// Name and template of the current revision.
    pub(super) current: (&'a str, &'a PodTemplateSpec),
    /// Name and template of the update revision.
    pub(super) update: (&'a str, &'a PodTemplateSpec),
    /// The replicas that are to be.
    pub(super) ordinals: Ordinals,
    pub(super) wrote: &'a Wrote,
}

impl Applier<'_> {
    /// Carries out actions: first what puts claims and pods right, because a pod that is deleted
    /// must have its claims in order before; then the rest, side by side; last what nothing depends on.
    pub(super) async fn apply(&self, actions: &[Action]) -> Result<(), ApplyError> {
        let (mut fixes, mut others, mut growths) = (Vec::new(), Vec::new(), Vec::new());
        for action in actions {
            let kind = match action {
                Action::FixPod { .. } | Action::FixClaims { .. } | Action::CreateClaims { .. } => &mut fixes,
                Action::CreatePod { .. } | Action::DeletePod { .. } => &mut others,
                Action::GrowClaims { .. } => &mut growths,
            };
            kind.push(action.clone());
        }
        let mut done = self.apply_all(fixes).await;
        if done.is_ok() {
            done = self.apply_all(others).await;
        }
        done.and(self.apply_all(growths).await)
    }

    /// Side by side. After the first failure nothing more is begun, as it would mostly fail for the same reason;
    /// but what has been begun is brought to its end, so that it is known what was written.
    async fn apply_all(&self, actions: Vec<Action>) -> Result<(), ApplyError> {
        let failed = AtomicBool::new(false);
        let failed = &failed;
        let outcomes: Vec<_> = stream::iter(actions)
            .map(|action| async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let outcome = self.apply_one(action).await;
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        outcomes.into_iter().collect()
    }

    async fn apply_one(&self, action: Action) -> Result<(), ApplyError> {
        match action {
            Action::CreatePod { ordinal, revision } => self.create_pod(ordinal, revision).await,
            Action::DeletePod { ordinal, uid } => self.delete_pod(ordinal, uid).await,
            Action::FixPod { ordinal, uid } => self.fix_pod(ordinal, &uid).await,
            Action::CreateClaims { ordinal } => self.create_claims(ordinal).await,
            Action::FixClaims { ordinal } => self.fix_claims(ordinal).await,
            Action::GrowClaims { ordinal } => self.grow_claims(ordinal).await,
        }
    }

    fn namespace(&self) -> &str {
        self.set.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn set_name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    async fn create_pod(&self, ordinal: Ordinal, revision: Revision) -> Result<(), ApplyError> {
        let name = pod_name(self.set_name(), ordinal);
        let created = self.create_claims(ordinal).await;
        if let Err(error) = created {
            self.record_pod("create", &name, Some(&error));
            return Err(error);
        }
        let (revision, template) = match revision {
            Revision::Current => self.current,
            Revision::Update => self.update,
        };
        let pod = new_pod(self.set, template, revision, ordinal);
        match self.pods().create(&PostParams::default(), &pod).await {
            Ok(pod) => {
                self.wrote.pod(&pod);
                self.record_pod("create", &name, None);
                Ok(())
            }
            // Someone else's pod has the name, or the cache lags: the next look tells which.
            Err(error) if is_already_exists(&error) => Err(api_error(format!("create pod {name}"), error)),
            Err(error) => {
                let error = api_error(format!("create pod {name}"), error);
                self.record_pod("create", &name, Some(&error));
                Err(error)
            }
        }
    }

    async fn delete_pod(&self, ordinal: Ordinal, uid: String) -> Result<(), ApplyError> {
        let name = pod_name(self.set_name(), ordinal);
        self.warn_before_deletion(ordinal, &uid);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.pods().delete(&name, &params).await {
            Ok(deleted) => {
                if let Some(pod) = deleted.left() {
                    self.wrote.pod(&pod);
                }
            }
            // Gone already, or another pod has taken the name: either way ours is no more.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(()),
            Err(error) => {
                let error = api_error(format!("delete pod {name}"), error);
                self.record_pod("delete", &name, Some(&error));
                return Err(error);
            }
        }
        self.record_pod("delete", &name, None);
        Ok(())
    }

    async fn fix_pod(&self, ordinal: Ordinal, uid: &str) -> Result<(), ApplyError> {
        let name = pod_name(self.set_name(), ordinal);
        let Some(pod) = self.informers.pods.get(&Key::new(self.namespace(), &name)) else {
            return Ok(());
        };
        if pod.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        match self.create_claims(ordinal).await {
            // It goes with the pod that uses it, whose identity is put right nevertheless: else this would hold up
            // all that is to come after it.
            Ok(()) | Err(ApplyError::ClaimDeleting(_)) => {}
            Err(error) => return Err(error),
        }
        let mut fixed = Pod::clone(&pod);
        fix(self.set, &mut fixed, ordinal);
        match self.pods().replace(&name, &PostParams::default(), &fixed).await {
            Ok(pod) => {
                self.wrote.pod(&pod);
                self.record_pod("update", &name, None);
                Ok(())
            }
            Err(error) => {
                let error = api_error(format!("update pod {name}"), error);
                self.record_pod("update", &name, Some(&error));
                Err(error)
            }
        }
    }

    /// Makes the claims of a replica that are not there.
    async fn create_claims(&self, ordinal: Ordinal) -> Result<(), ApplyError> {
        for claim in new_claims(self.set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            match self.informers.claims.get(&Key::new(self.namespace(), &name)) {
                Some(existing) if existing.metadata.deletion_timestamp.is_some() => {
                    return Err(ApplyError::ClaimDeleting(name));
                }
                Some(_) => {}
                None => self.create_claim(ordinal, &name, claim).await?,
            }
        }
        Ok(())
    }

    async fn create_claim(
        &self,
        ordinal: Ordinal,
        name: &str,
        mut claim: PersistentVolumeClaim,
    ) -> Result<(), ApplyError> {
        let pod = PodRef {
            ordinal,
            uid: "",
            condemned: !self.ordinals.contains(ordinal),
        };
        if let Some(owners) = wanted_owners(&claim, self.set, &pod) {
            claim.metadata.owner_references = Some(owners);
        }
        match self.claims().create(&PostParams::default(), &claim).await {
            Ok(claim) => {
                self.wrote.claim(&claim);
                self.record_claim("create", ordinal, name, None);
                Ok(())
            }
            Err(error) if is_already_exists(&error) => Ok(()),
            Err(error) => {
                let error = api_error(format!("failed to create PVC {name}"), error);
                self.record_claim("create", ordinal, name, Some(&error));
                Err(error)
            }
        }
    }

    /// Makes the claims of a pod belong to whom the retention policy says.
    async fn fix_claims(&self, ordinal: Ordinal) -> Result<(), ApplyError> {
        let pod_key = Key::new(self.namespace(), pod_name(self.set_name(), ordinal));
        let pod = self.informers.pods.get(&pod_key);
        let uid = pod.and_then(|pod| pod.metadata.uid.clone()).unwrap_or_default();
        let pod = PodRef {
            ordinal,
            uid: &uid,
            condemned: !self.ordinals.contains(ordinal),
        };
        for name in claim_names(self.set, ordinal) {
            let Some(claim) = self.informers.claims.get(&Key::new(self.namespace(), &name)) else {
                continue;
            };
            self.warn_of_other_controller(&name, &claim, &pod);
            let Some(owners) = wanted_owners(&claim, self.set, &pod) else {
                continue;
            };
            let version = claim.metadata.resource_version.clone();
            let patch = json!({"metadata": {"resourceVersion": version, "ownerReferences": owners}});
            let written = self
                .claims()
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            let written = written.map_err(|error| {
                api_error(
                    format!("could not update claim {name} for delete policy ownerRefs"),
                    error,
                )
            })?;
            self.wrote.claim(&written);
        }
        Ok(())
    }

    /// Has the claims of a replica follow their templates.
    async fn grow_claims(&self, ordinal: Ordinal) -> Result<(), ApplyError> {
        for (template_name, template) in claim_templates(self.set) {
            let name = claim_name(template_name, self.set_name(), ordinal);
            let Some(claim) = self.informers.claims.get(&Key::new(self.namespace(), &name)) else {
                continue;
            };
            let Some(patch) = growth::change(&claim, template) else {
                continue;
            };
            let written = self
                .claims()
                .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match written {
                Ok(claim) => {
                    self.wrote.claim(&claim);
                    self.record_claim("update", ordinal, &name, None);
                }
                Err(error) => {
                    let error = api_error(format!("claim {name} does not follow its template"), error);
                    self.record_claim("update", ordinal, &name, Some(&error));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A replica that goes for good may leave a claim that the policy would take, were it not somebody else's.
    fn warn_before_deletion(&self, ordinal: Ordinal, uid: &str) {
        if self.ordinals.contains(ordinal) {
            return;
        }
        let pod = PodRef {
            ordinal,
            uid,
            condemned: true,
        };
        for name in claim_names(self.set, ordinal) {
            if let Some(claim) = self.informers.claims.get(&Key::new(self.namespace(), &name)) {
                self.warn_of_other_controller(&name, &claim, &pod);
            }
        }
    }

    /// Says that the retention policy has no say in a claim that somebody else manages.
    fn warn_of_other_controller(&self, name: &str, claim: &PersistentVolumeClaim, pod: &PodRef<'_>) {
        if !has_other_controller(claim, self.set, pod) {
            return;
        }
        let message = format!(
            "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim"
        );
        let about = reference(&**self.set);
        self.recorder
            .record(about, EventType::Warning, "ConflictingController", message);
    }

    fn record_pod(&self, verb: &str, pod: &str, error: Option<&ApplyError>) {
        let set = self.set_name();
        let what = format!("{verb} Pod {pod} in StatefulSet {set}");
        self.record(verb, what, "successful", error);
    }

    fn record_claim(&self, verb: &str, ordinal: Ordinal, claim: &str, error: Option<&ApplyError>) {
        let (set, pod) = (self.set_name(), pod_name(self.set_name(), ordinal));
        // Kubernetes says `for` only where it fails.
        let whose = if error.is_none() { "" } else { "for " };
        let what = format!("{verb} Claim {claim} {whose}Pod {pod} in StatefulSet {set}");
        self.record(verb, what, "success", error);
    }

    fn record(&self, verb: &str, what: String, success: &str, error: Option<&ApplyError>) {
        let title = match verb {
            "create" => "Create",
            "delete" => "Delete",
            _ => "Update",
        };
        let about = reference(&**self.set);
        match error {
            None => {
                let reason = format!("Successful{title}");
                self.recorder
                    .record(about, EventType::Normal, &reason, format!("{what} {success}"));
            }
            Some(error) => {
                let reason = format!("Failed{title}");
                let message = format!("{what} failed error: {}", error.cause());
                self.recorder.record(about, EventType::Warning, &reason, message);
            }
        }
    }
}

impl ApplyError {
    /// Whether another look may do: somebody else was faster, which that takes into account; or the server has too
    /// much to do, or ends.
    pub(super) fn passes_by_itself(&self) -> bool {
        match self {
            ApplyError::Api { source, .. } => match &**source {
                kube::Error::Api(status) => {
                    status.reason == "Conflict" || matches!(status.code, 404 | 429 | 503 | 504)
                }
                _ => true,
            },
            ApplyError::ClaimDeleting(_) => true,
        }
    }

    /// What was tried, and why it was refused.
    pub(super) fn words(&self) -> String {
        match self {
            ApplyError::Api { what, .. } => format!("{what}: {}", self.cause()),
            other => other.to_string(),
        }
    }

    /// The refusal itself, as events show it.
    fn cause(&self) -> String {
        match self {
            ApplyError::Api { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }
}

pub(super) fn api_error(what: String, source: kube::Error) -> ApplyError {
    ApplyError::Api {
        what,
        source: Box::new(source),
    }
}

fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}
