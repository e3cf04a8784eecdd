//! Carries out what was decided about endpoints. Everything that writes is here.

use std::sync::Arc;

use futures::future::{join, join_all};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use stead_informer::{Informers, Key};

use super::plan::{EndpointsChange, Plan};
use super::slices::Changes;
use crate::refused::{Refused, is_conflict, is_namespace_terminating, is_not_found};
use crate::written::Written;

/// Which write failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// The Endpoints object's.
    #[error(transparent)]
    Endpoints(Refused),
    /// A slice's.
    #[error(transparent)]
    Slices(Refused),
    /// What was changed is not what it was; the next look tells.
    #[error("{0} has changed meanwhile")]
    Stale(String),
}

/// Writes endpoints.
pub(super) struct Applier {
    client: Client,
    endpoints: Written<Endpoints>,
    slices: Written<EndpointSlice>,
}

impl Applier {
    pub(super) fn new(client: Client, informers: &Informers) -> Applier {
        Applier {
            client,
            endpoints: Written::new(&informers.endpoints),
            slices: Written::new(&informers.slices),
        }
    }

    pub(super) async fn caught_up(&self) {
        self.slices.caught_up().await;
        self.endpoints.caught_up().await;
    }

    /// Carries out a plan. The object and its slices do not depend on each other, so they are
    /// written side by side.
    pub(super) async fn apply(&self, key: &Key, plan: Plan) -> Result<(), ApplyError> {
        let (slices, endpoints) = join(
            self.apply_slices(key, plan.slices),
            self.apply_endpoints(key, plan.endpoints),
        )
        .await;
        slices.and(endpoints)
    }

    async fn apply_endpoints(&self, key: &Key, change: EndpointsChange) -> Result<(), ApplyError> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = match change {
            EndpointsChange::None => return Ok(()),
            EndpointsChange::Create(endpoints) => api.create(&PostParams::default(), &endpoints).await,
            EndpointsChange::Update(endpoints) => {
                api.replace(&key.name, &PostParams::default(), &endpoints).await
            }
            EndpointsChange::Delete(endpoints) => {
                let params = only(endpoints.metadata.uid.clone());
                let deleted = api.delete(&key.name, &params).await;
                return deleted
                    .map(|_| ())
                    .or_else(|error| forgive_gone(error, "delete endpoints", key));
            }
        };
        match written {
            Ok(endpoints) => {
                self.endpoints.note(&endpoints);
                Ok(())
            }
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                Err(ApplyError::Stale(format!("endpoints {key}")))
            }
            Err(error) => Err(ApplyError::Endpoints(Refused::to("write endpoints")(error))),
        }
    }

    async fn apply_slices(&self, key: &Key, changes: Changes) -> Result<(), ApplyError> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let creations = join_all(changes.create.iter().map(|slice| self.create(&api, slice)));
        let updates = join_all(changes.update.iter().map(|slice| self.update(&api, slice)));
        let deletions = join_all(changes.delete.iter().map(|slice| delete(&api, key, slice)));
        let ((created, updated), deleted) = join(join(creations, updates), deletions).await;
        created.into_iter().chain(updated).chain(deleted).collect()
    }

    async fn create(&self, api: &Api<EndpointSlice>, slice: &EndpointSlice) -> Result<(), ApplyError> {
        match api.create(&PostParams::default(), slice).await {
            Ok(slice) => {
                self.slices.note(&slice);
                Ok(())
            }
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => Err(ApplyError::Slices(Refused::to("create an endpoint slice")(error))),
        }
    }

    async fn update(&self, api: &Api<EndpointSlice>, slice: &EndpointSlice) -> Result<(), ApplyError> {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        match api.replace(name, &PostParams::default(), slice).await {
            Ok(slice) => {
                self.slices.note(&slice);
                Ok(())
            }
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                Err(ApplyError::Stale(format!("endpoint slice {name}")))
            }
            Err(error) => Err(ApplyError::Slices(Refused::to(format!(
                "update endpoint slice {name}"
            ))(error))),
        }
    }
}

async fn delete(api: &Api<EndpointSlice>, key: &Key, slice: &Arc<EndpointSlice>) -> Result<(), ApplyError> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    let deleted = api.delete(name, &only(slice.metadata.uid.clone())).await;
    deleted
        .map(|_| ())
        .or_else(|error| forgive_gone(error, "delete an endpoint slice", key))
}

/// Deletes an object of this uid and no other.
fn only(uid: Option<String>) -> DeleteParams {
    let preconditions = Preconditions {
        uid,
        resource_version: None,
    };
    DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    }
}

fn forgive_gone(error: kube::Error, what: &str, key: &Key) -> Result<(), ApplyError> {
    if is_not_found(&error) || is_conflict(&error) {
        return Ok(());
    }
    Err(ApplyError::Slices(Refused::to(format!("{what} of {key}"))(error)))
}
