//! Admission webhooks: servers that are asked about writes, and may change or refuse them ("Dynamic
//! Admission Control").
//!
//! `hook` decides which requests a webhook is for, `review` what it is asked and what its answer
//! means, both pure; `client` asks.

mod client;
mod hook;
mod review;

use futures::future::join_all;
use serde_json::Value;
use stead_api::error::{ApiError, quote};
use stead_api::patch::{self, PatchError};
use stead_api::{meta, schema};
use stead_store::Snapshot;

pub(crate) use hook::{Hook, Operation};

use self::hook::{Target, labels};
use self::review::{Answer, Request};
use crate::authz::Policy;
use crate::identity::SERVER;
use crate::options::DeleteOptions;
use crate::resource::Change;
use crate::respond::add_warnings;
use crate::server::{Call, Inner};
use crate::stored::{Stored, key};

const GROUP: &str = "admissionregistration.k8s.io";

/// A write that webhooks may have a say in.
pub(crate) struct Write<'a> {
    request: Request<'a>,
    mutating: Vec<Stored>,
    validating: Vec<Stored>,
}

impl<'a> Write<'a> {
    /// A creation, or with `old` an update of a part.
    pub(crate) fn new(
        call: &'a Call<'a>,
        change: Change,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> Option<Write<'a>> {
        let operation = if old.is_some() {
            Operation::Update
        } else {
            Operation::Create
        };
        let kind = if old.is_some() {
            "UpdateOptions"
        } else {
            "CreateOptions"
        };
        let subresource = match change {
            Change::Main => "",
            Change::Status => "status",
            Change::Finalize => "finalize",
        };
        Write::of(call, || Request {
            call,
            operation,
            subresource,
            old,
            dry_run,
            options: review::write_options(call.query, kind, dry_run),
        })
    }

    /// A deletion.
    pub(crate) fn deletion(call: &'a Call<'a>, old: &'a Value, options: &DeleteOptions) -> Option<Write<'a>> {
        Write::of(call, || Request {
            call,
            operation: Operation::Delete,
            subresource: "",
            old: Some(old),
            dry_run: options.dry_run,
            options: review::delete_options(options),
        })
    }

    /// None where no webhooks are configured, or the write is of their configuration itself, or of the server, which
    /// must come up though the pods behind its webhooks do not run yet.
    fn of(call: &'a Call<'a>, request: impl FnOnce() -> Request<'a>) -> Option<Write<'a>> {
        if call.kind.group == GROUP || call.identity.name == SERVER {
            return None;
        }
        let snapshot = call.server.store.snapshot();
        let configured = |plural: &str| call.server.configurations(&snapshot, plural);
        let mutating = configured("mutatingwebhookconfigurations");
        let validating = configured("validatingwebhookconfigurations");
        (!mutating.is_empty() || !validating.is_empty()).then(|| Write {
            request: request(),
            mutating,
            validating,
        })
    }

    /// Lets webhooks change an object that is to be written. `again` is what the server itself does
    /// to a changed object.
    pub(crate) async fn mutate(
        &self,
        object: &mut Value,
        warnings: &mut Vec<String>,
        mut again: impl FnMut(&mut Value) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let all: Vec<&Hook> = hooks(&self.mutating).collect();
        // Those that were asked before an object was changed by another, and want to see that.
        let (mut asked, mut outdated): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        for (at, hook) in all.iter().enumerate() {
            if !self.concerns(hook, Some(object))? {
                continue;
            }
            if self.change(hook, object, warnings, &mut again).await? {
                outdated.append(&mut asked);
            }
            if hook.is_reinvoked() {
                asked.push(at);
            }
        }
        for at in outdated {
            if self.concerns(all[at], Some(object))? {
                self.change(all[at], object, warnings, &mut again).await?;
            }
        }
        Ok(())
    }

    /// Lets one webhook change an object; says whether it did.
    async fn change(
        &self,
        hook: &Hook,
        object: &mut Value,
        warnings: &mut Vec<String>,
        again: &mut impl FnMut(&mut Value) -> Result<(), ApiError>,
    ) -> Result<bool, ApiError> {
        let answer = self.ask(hook, Some(object), true).await?;
        add_warnings(warnings, answer.warnings);
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        let Some(patch) = answer.patch else {
            return Ok(false);
        };
        let patched = patch::json_patch(object, &patch).map_err(|error| match error {
            PatchError::Malformed(why) | PatchError::DoesNotFit(why) => ApiError::internal(why),
            error @ PatchError::TooManyOperations(_) => ApiError::internal(error),
        })?;
        if patched == *object {
            return Ok(false);
        }
        let kind = self.request.call.kind;
        let mut changed = schema::decode_value(schema::builtin(), kind.type_id(), patched)
            .map_err(|error| {
                ApiError::internal(format!(
                    "admission webhook {} made no {}: {error}",
                    quote(&hook.name),
                    kind.kind
                ))
            })?
            .value;
        (kind.logic.set_defaults)(&mut changed).map_err(ApiError::internal)?;
        again(&mut changed)?;
        *object = changed;
        Ok(true)
    }

    /// Lets webhooks refuse the write. `object` is what will be stored; none for a deletion.
    pub(crate) async fn validate(
        &self,
        object: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        // A deletion changes nothing, and so webhooks that change are asked with the others.
        let also = object
            .is_none()
            .then(|| hooks(&self.mutating))
            .into_iter()
            .flatten();
        let mut asked = Vec::new();
        for hook in also.chain(hooks(&self.validating)) {
            if self.concerns(hook, object)? {
                asked.push(self.ask(hook, object, false));
            }
        }
        let mut refusal = None;
        for answer in join_all(asked).await {
            let answer = answer?;
            add_warnings(warnings, answer.warnings);
            refusal = refusal.or(answer.refusal);
        }
        refusal.map_or(Ok(()), Err)
    }

    fn concerns(&self, hook: &Hook, new: Option<&Value>) -> Result<bool, ApiError> {
        let request = &self.request;
        let kind = request.call.kind;
        let target = Target {
            operation: request.operation,
            group: kind.group,
            version: kind.version,
            resource: kind.plural,
            subresource: request.subresource,
            namespaced: kind.namespaced,
        };
        if !hook.is_for(&target) || !hook.takes_object([new, request.old]) {
            return Ok(false);
        }
        let subject = new.or(request.old).unwrap_or(&Value::Null);
        if kind.kind == "Namespace" {
            return Ok(hook.takes_namespace(Some(&labels(subject))));
        }
        if !kind.namespaced {
            return Ok(true);
        }
        let name = meta::namespace(subject);
        let namespace = super::find(request.call, "namespaces", "", name)
            .ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(hook.takes_namespace(Some(&labels(&namespace.1.value()))))
    }

    /// Asks a webhook. One that cannot be asked has no objection if its policy says so.
    async fn ask(&self, hook: &Hook, object: Option<&Value>, changes: bool) -> Result<Answer, ApiError> {
        let version = ["v1", "v1beta1"]
            .into_iter()
            .find(|version| hook.admission_review_versions.iter().any(|own| own == version))
            .unwrap_or("v1");
        let (uid, review) = self.request.review(version, object);
        let question = review.to_string().into_bytes();
        let answered = client::ask(self.request.call.server, hook, question).await;
        let answer = answered.and_then(|body| {
            review::read(&hook.name, version, &uid, &body, changes)
                .map_err(|why| format!("received invalid webhook response: {why}"))
        });
        answer.or_else(|why| {
            let why = format!("failed calling webhook {}: {why}", quote(&hook.name));
            if hook.fails_open() {
                tracing::warn!(%why, "a webhook is passed over");
                return Ok(Answer::default());
            }
            Err(ApiError::internal(why))
        })
    }
}

fn hooks(configurations: &[Stored]) -> impl Iterator<Item = &Hook> {
    configurations
        .iter()
        .filter_map(|configuration| match configuration.policy() {
            Policy::Webhooks(hooks) => Some(hooks),
            _ => None,
        })
        .flatten()
}

impl Inner {
    /// Configurations of webhooks, by name.
    fn configurations(&self, snapshot: &Snapshot<Stored>, plural: &str) -> Vec<Stored> {
        let Some(kind) = self.registry.resource(GROUP, "v1", plural) else {
            return Vec::new();
        };
        let prefix = key::prefix(kind, "");
        let found = snapshot.prefix(&prefix).map(|(_, entry)| entry.value.clone());
        found.collect()
    }
}
