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
use stead_api::registry::Kind;
use stead_api::schema::TypeId;
use stead_api::{meta, schema};
use stead_store::Snapshot;

pub(crate) use hook::{Hook, Operation};
pub(crate) use review::Part;

use self::hook::{Target, labels};
use self::review::{Answer, Request};
use crate::authz::Policy;
use crate::identity::SERVER;
use crate::options::DeleteOptions;
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
    pub(crate) fn new(call: &'a Call<'a>, old: Option<&'a Value>, dry_run: bool) -> Option<Write<'a>> {
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
        // Of these it is the part that webhooks are asked about.
        if ["scale", "eviction", "binding"].contains(&call.path.subresource.as_str()) {
            return None;
        }
        Write::of(call, || Request {
            call,
            operation,
            part: None,
            old,
            dry_run,
            options: review::write_options(call.query, kind, dry_run),
        })
    }

    /// A write of a subresource whose objects are of a kind of their own, with `old` an update.
    pub(crate) fn part(
        call: &'a Call<'a>,
        part: Part,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> Option<Write<'a>> {
        let (operation, options) = match old {
            Some(_) => (Operation::Update, "UpdateOptions"),
            None => (Operation::Create, "CreateOptions"),
        };
        Write::of(call, || Request {
            call,
            operation,
            part: Some(part),
            old,
            dry_run,
            options: review::write_options(call.query, options, dry_run),
        })
    }

    /// A stream to or from what the path names.
    pub(crate) fn connection(call: &'a Call<'a>, options: Part) -> Option<Write<'a>> {
        Write::of(call, || Request {
            call,
            operation: Operation::Connect,
            part: Some(options),
            old: None,
            dry_run: false,
            options: Value::Null,
        })
    }

    /// Lets webhooks change and refuse a subresource's object.
    pub(crate) async fn decide(
        &self,
        ty: TypeId,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        self.mutate(object, warnings, |changed| {
            schema::normalize(schema::builtin(), ty, changed);
            Ok(())
        })
        .await?;
        self.validate(Some(object), warnings).await
    }

    /// A deletion; not one that comes of an eviction, about which they have been asked.
    pub(crate) fn deletion(call: &'a Call<'a>, old: &'a Value, options: &DeleteOptions) -> Option<Write<'a>> {
        if !call.path.subresource.is_empty() {
            return None;
        }
        Write::of(call, || Request {
            call,
            operation: Operation::Delete,
            part: None,
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
            let Some(seen) = self.concerns(hook, Some(object))? else {
                continue;
            };
            if self.change(hook, seen, object, warnings, &mut again).await? {
                outdated.append(&mut asked);
            }
            if hook.is_reinvoked() {
                asked.push(at);
            }
        }
        for at in outdated {
            if let Some(seen) = self.concerns(all[at], Some(object))? {
                self.change(all[at], seen, object, warnings, &mut again).await?;
            }
        }
        Ok(())
    }

    /// Lets one webhook change an object; says whether it did.
    async fn change(
        &self,
        hook: &Hook,
        seen: &Kind,
        object: &mut Value,
        warnings: &mut Vec<String>,
        again: &mut impl FnMut(&mut Value) -> Result<(), ApiError>,
    ) -> Result<bool, ApiError> {
        let answer = self.ask(hook, seen, Some(object), true).await?;
        add_warnings(warnings, answer.warnings);
        if let Some(refusal) = answer.refusal {
            return Err(refusal);
        }
        let Some(patch) = answer.patch else {
            return Ok(false);
        };
        let kind = self.request.call.kind;
        let shown = self.request.convert(object, kind, seen);
        let patched = patch::json_patch(&shown, &patch).map_err(|error| match error {
            PatchError::Malformed(why) | PatchError::DoesNotFit(why) => ApiError::internal(why),
            error => ApiError::internal(error),
        })?;
        if patched == shown {
            return Ok(false);
        }
        let patched = self.request.convert(&patched, seen, kind);
        if self.request.part.is_some() {
            *object = patched;
            again(object)?;
            return Ok(true);
        }
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
        // A deletion or a stream changes nothing, and so webhooks that change are asked with the others.
        let changes_nothing = object.is_none() || self.request.operation == Operation::Connect;
        let also = changes_nothing
            .then(|| hooks(&self.mutating))
            .into_iter()
            .flatten();
        let mut asked = Vec::new();
        for hook in also.chain(hooks(&self.validating)) {
            if let Some(seen) = self.concerns(hook, object)? {
                asked.push(self.ask(hook, seen, object, false));
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

    /// As a request for which kind the write concerns a webhook, if it does: its own, or if the webhook wants so an
    /// equivalent one.
    fn concerns(&self, hook: &Hook, new: Option<&Value>) -> Result<Option<&'static Kind>, ApiError> {
        let request = &self.request;
        let call = request.call;
        let kind = call.kind;
        let is_for = |kind: &Kind| {
            hook.is_for(&Target {
                operation: request.operation,
                group: kind.group,
                version: kind.version,
                resource: kind.plural,
                subresource: &call.path.subresource,
                namespaced: kind.namespaced,
            })
        };
        let storage = |kind: &Kind| {
            (
                kind.stored_as.map_or(kind.group, |stored| stored.group),
                kind.plural,
            )
        };
        let seen = if is_for(kind) {
            Some(kind)
        } else {
            let mut equivalents = call
                .server
                .registry
                .kinds()
                .filter(|other| storage(other) == storage(kind));
            equivalents.find(|other| hook.takes_equivalents() && is_for(other))
        };
        if seen.is_none() || !hook.takes_object([new, request.old]) {
            return Ok(None);
        }
        let subject = new.or(request.old).unwrap_or(&Value::Null);
        if kind.kind == "Namespace" {
            return Ok(seen.filter(|_| hook.takes_namespace(Some(&labels(subject)))));
        }
        if !kind.namespaced {
            return Ok(seen);
        }
        let name = match request.part {
            Some(_) => &call.path.namespace,
            None => meta::namespace(subject),
        };
        let namespace = super::find(request.call, "namespaces", "", name)
            .ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(seen.filter(|_| hook.takes_namespace(Some(&labels(&namespace.1.value())))))
    }

    /// Asks a webhook. One that cannot be asked has no objection if its policy says so.
    async fn ask(
        &self,
        hook: &Hook,
        seen: &Kind,
        object: Option<&Value>,
        changes: bool,
    ) -> Result<Answer, ApiError> {
        let version = ["v1", "v1beta1"]
            .into_iter()
            .find(|version| hook.admission_review_versions.iter().any(|own| own == version))
            .unwrap_or("v1");
        let (uid, review) = self.request.review(version, object, seen);
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
