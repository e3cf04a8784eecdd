//! The set's revisions in the API: adopted, made, renumbered, pruned, as [`super::revision`] decides.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use stead_informer::semantics::Selector;

use super::StatefulSets;
use super::adopt::{self, Relation};
use super::apply::{ApplyError, api_error};
use super::revision::{self, Step};
use super::state::{Observed, Pod as SeenPod};
use super::status::Revisions;
use super::wrote::Wrote;
use super::{identity, observe};

/// The set's revisions, and what the live ones are.
pub(super) struct History {
    pub(super) names: Revisions,
    /// The template of the current revision.
    pub(super) current: PodTemplateSpec,
    /// The template of the update revision.
    pub(super) update: PodTemplateSpec,
    /// Why the set's template has no revision.
    pub(super) refused: Option<ApplyError>,
    revisions: Vec<ControllerRevision>,
}

impl StatefulSets {
    /// The set's revisions, sorted, after adopting those without an owner.
    pub(super) async fn own_revisions(
        &self,
        set: &StatefulSet,
        selector: &Selector,
        wrote: &Wrote,
    ) -> Result<Vec<ControllerRevision>, ApplyError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let all = self.informers.revisions.in_namespace(namespace);
        let mut own = Vec::new();
        for (relation, revision) in adopt::revisions(set, selector, &all) {
            if relation == Relation::Own {
                own.push(revision);
                continue;
            }
            self.check_still_there(set).await?;
            let name = revision.metadata.name.clone().unwrap_or_default();
            let owners = json!([identity::controller_reference(set)]);
            let patch = json!({"metadata": {"uid": revision.metadata.uid, "ownerReferences": owners}});
            let adopted = self
                .revisions(set)
                .patch(&name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
                .map_err(|error| api_error(format!("adopt revision {name}"), error))?;
            wrote.revision(&adopted);
            own.push(adopted);
        }
        revision::sort(&mut own);
        Ok(own)
    }

    /// Makes sure that the template has its revision, and tells the two live ones. Where the API refuses that
    /// revision, those live that did before: the template is as if it had not been changed.
    pub(super) async fn history(
        &self,
        set: &StatefulSet,
        mut revisions: Vec<ControllerRevision>,
        wrote: &Wrote,
    ) -> Result<History, ApplyError> {
        let own = set.status.clone().unwrap_or_default();
        let mut collisions = own.collision_count.unwrap_or(0);
        let made = self
            .make_revision(set, &mut revisions, &mut collisions, wrote)
            .await;
        let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
        let named = |wanted: &Option<String>| {
            let mut all = revisions.iter();
            all.find(|revision| revision.metadata.name == *wanted)
        };
        let (update, template, refused) = match made {
            Ok(()) => {
                let newest = revisions.last().map(name).or(own.update_revision);
                (newest.unwrap_or_default(), set.spec.template.clone(), None)
            }
            Err(error) if error.passes_by_itself() => return Err(error),
            Err(error) => match named(&own.update_revision).and_then(|former| {
                let template = revision::template(former)?;
                Some((name(former), template))
            }) {
                Some((update, template)) => (update, template, Some(error)),
                None => return Err(error),
            },
        };
        let current = named(&own.current_revision);
        Ok(History {
            names: Revisions {
                current: current.map_or_else(|| update.clone(), name),
                update,
                collisions,
            },
            current: current
                .and_then(revision::template)
                .unwrap_or_else(|| template.clone()),
            update: template,
            refused,
            revisions,
        })
    }

    /// Makes the template's revision the newest of all.
    async fn make_revision(
        &self,
        set: &StatefulSet,
        revisions: &mut Vec<ControllerRevision>,
        collisions: &mut i32,
        wrote: &Wrote,
    ) -> Result<(), ApplyError> {
        // A set on its way out makes nothing; in the foreground, it would wait for what it makes.
        while set.metadata.deletion_timestamp.is_none() {
            match revision::step(set, revisions, *collisions) {
                Step::Use(_) => break,
                Step::Renumber { index, revision } => {
                    let name = revisions[index].metadata.name.clone().unwrap_or_default();
                    let patch = json!({"revision": revision});
                    let renumbered = self
                        .revisions(set)
                        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                        .await
                        .map_err(|error| api_error(format!("renumber revision {name}"), error))?;
                    wrote.revision(&renumbered);
                    revisions[index] = renumbered;
                    revision::sort(revisions);
                }
                Step::Create(new) => {
                    let name = new.metadata.name.clone().unwrap_or_default();
                    match self.revisions(set).create(&PostParams::default(), &new).await {
                        Ok(created) => {
                            wrote.revision(&created);
                            revisions.push(created);
                        }
                        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                            match self.taken(set, &name).await? {
                                Some(existing) if revision::same_template(&existing, set) => {
                                    revisions.push(existing);
                                    break;
                                }
                                // Any other count does, also after the highest.
                                Some(_) => *collisions = collisions.checked_add(1).unwrap_or(0),
                                // Gone meanwhile: the name is free. Another one would have the pods that were
                                // made under this name replaced.
                                None => {}
                            }
                        }
                        Err(error) => return Err(api_error(format!("create revision {name}"), error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// The revision that has a name already. If it is equal, it is that of a former set of this name, which goes
    /// when garbage collection gets to it, and is made anew then. If it holds other data, there is a
    /// collision: another count makes another name.
    async fn taken(&self, set: &StatefulSet, name: &str) -> Result<Option<ControllerRevision>, ApplyError> {
        self.revisions(set)
            .get_opt(name)
            .await
            .map_err(|error| api_error(format!("get revision {name}"), error))
    }

    /// Deletes revisions beyond the limit.
    pub(super) async fn prune(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        seen: &Observed,
        history: &History,
        wrote: &Wrote,
    ) -> Result<(), ApplyError> {
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        let is_stray = |seen: &SeenPod| !seen.is_update && !seen.is_current;
        let strays = seen.pods.iter().zip(pods).filter(|(seen, _)| is_stray(seen));
        let live: HashSet<&str> = strays.map(|(_, pod)| observe::revision_name(pod)).collect();
        let is_live =
            |name: &str| name == history.names.current || name == history.names.update || live.contains(name);
        for revision in revision::superfluous(&history.revisions, is_live, limit) {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            match self.revisions(set).delete(name, &DeleteParams::default()).await {
                Ok(deleted) => {
                    if let Some(revision) = deleted.left() {
                        wrote.revision(&revision);
                    }
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(api_error(format!("delete revision {name}"), error)),
            }
        }
        Ok(())
    }

    fn revisions(&self, set: &StatefulSet) -> Api<ControllerRevision> {
        Api::namespaced(
            self.client.clone(),
            set.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }
}
