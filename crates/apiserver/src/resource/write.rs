//! Creating, updating and patching objects.
//!
//! The steps are upstream's: decode and default, admission, prepare, validate, commit. A commit is
//! conditional on what the steps were based on; where the client set no condition of its own, a
//! lost race means that they are done again.

use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};
use stead_api::error::{ApiError, Errors};
use stead_api::meta;
use stead_api::object::NotOfKind;
use stead_api::registry::Kind;
use stead_store::{CommitError, Condition, Txn};

use super::applying::{apply_part, creation, keep_notes, note_creation, note_update};
use super::patching::{PatchType, check_patched_kind, decode_patched, patch_type, patch_with};
use super::prepare::{
    fill_metadata, fit_to_namespace, fit_to_path, generate_name, keep_metadata, keep_parts, prepare_create,
    prepare_update, stored_group,
};
use super::read::{closed, current, show, view};
use crate::admission;
use crate::admission::webhook::Write as Webhooks;
use crate::authz;
use crate::body::{self, Expected, Received};
use crate::caveat;
use crate::options::{FieldSource, WriteOptions};
use crate::quota;
use crate::respond;
use crate::server::Call;
use crate::services;
use crate::stored::{Stored, encode, key};

/// How often a write is tried that loses races against others.
pub(super) const ATTEMPTS: usize = 8;

/// What came of a write.
pub(crate) enum Written {
    /// It is stored.
    Stored(Stored),
    /// It is what would have been stored (`dryRun`), or what was stored last (a deletion).
    Unstored(Value),
}

impl Written {
    fn into_value(self, kind: &Kind) -> Value {
        match self {
            Written::Stored(object) => view(kind, &object),
            Written::Unstored(value) => value,
        }
    }
}

/// Why an update was not written.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What it was based on has changed meanwhile: one may try again.
    LostRace(ApiError),
    /// It is refused.
    Refused(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Refused(error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        let (Failure::LostRace(error) | Failure::Refused(error)) = failure;
        error
    }
}

/// Which part of an object an update changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// All but the status, where that is a subresource.
    Main,
    /// The status.
    Status,
    /// The approval of a request for a certificate.
    Approval,
    /// The finalizers of a namespace's content.
    Finalize,
}

/// POST to a collection.
pub(crate) async fn create(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "CreateOptions")?;
    let received = body::decode(
        call.headers,
        body,
        &Expected::of(call.kind),
        options.field_validation,
    )?;
    let mut warnings = received.warnings;
    let written = create_object(call, received.object, &mut warnings, options).await;
    answer(call, 201, written, &warnings)
}

/// PUT of an object.
pub(crate) async fn update(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    update_part(call, body, Change::Main).await
}

/// PUT of an object or of a part of it.
pub(crate) async fn update_part(call: &Call<'_>, body: &Bytes, change: Change) -> Result<Response, ApiError> {
    let options = WriteOptions::parse(call.query, "UpdateOptions")?;
    let Received {
        mut object,
        mut warnings,
    } = body::decode(
        call.headers,
        body,
        &Expected::of(call.kind),
        options.field_validation,
    )?;
    fit_to_path(call, &mut object)?;
    for _ in 0..ATTEMPTS {
        let old = match current(call) {
            Ok(old) => old,
            Err(_) if call.kind.create_on_update && change == Change::Main => {
                call.server.check(call.identity, &creation(call))?;
                let written = create_object(call, object, &mut warnings, options).await;
                return answer(call, 201, written, &warnings);
            }
            Err(error) => return Err(error),
        };
        let before = view(call.kind, &old);
        let mut new = object.clone();
        let conditional = check_version(call, &mut new, &before)?;
        match write_update(call, &old, &before, new, change, options, &mut warnings).await {
            Err(Failure::LostRace(_)) if !conditional => {}
            result => return answer(call, 200, result.map_err(ApiError::from), &warnings),
        }
    }
    Err(modified(call))
}

/// PATCH of an object.
pub(crate) async fn patch(call: &Call<'_>, body: &Bytes) -> Result<Response, ApiError> {
    patch_part(call, body, Change::Main).await
}

/// PATCH of an object or of a part of it.
pub(crate) async fn patch_part(call: &Call<'_>, body: &Bytes, change: Change) -> Result<Response, ApiError> {
    if let PatchType::Apply = patch_type(call.headers)? {
        return Box::pin(apply_part(call, body, change)).await;
    }
    let options = WriteOptions::parse(call.query, "PatchOptions")?;
    WriteOptions::check_patch(call.query)?;
    let expected = Expected::of(call.kind);
    for _ in 0..ATTEMPTS {
        let old = current(call)?;
        let before = view(call.kind, &old);
        let patched = patch_with(call.headers, &before, call.kind.type_id(), body)?;
        check_patched_kind(&patched, call.kind)?;
        let Received {
            object: mut new,
            mut warnings,
        } = decode_patched(&before, patched, &expected, options.field_validation)?;
        fit_to_path(call, &mut new)?;
        let conditional = new["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"];
        check_version(call, &mut new, &before)?;
        match write_update(call, &old, &before, new, change, options, &mut warnings).await {
            Err(Failure::LostRace(_)) if !conditional => {}
            result => return answer(call, 200, result.map_err(ApiError::from), &warnings),
        }
    }
    Err(modified(call))
}

/// Creates an object: all of the way of a POST after decoding.
pub(crate) async fn create_object(
    call: &Call<'_>,
    mut object: Value,
    warnings: &mut Vec<String>,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let kind = call.kind;
    fit_to_namespace(call, &mut object)?;
    if !meta::text(&object, "resourceVersion").is_empty() {
        return Err(ApiError::new(
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ));
    }
    fill_metadata(kind, &mut object);
    if options.fields == FieldSource::Sent {
        meta::remove(&mut object, "managedFields");
    }
    (kind.logic.set_defaults)(&mut object).map_err(broken)?;
    let generated = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
    let mut lost = 0;
    while lost < ATTEMPTS {
        let mut new = object.clone();
        if generated {
            let name = generate_name(meta::text(&new, "generateName"));
            meta::set(&mut new, "name", name);
        }
        let namespace = admission::namespace_for_create(call, &new)?;
        admission::mutate_create(call, &mut new)?;
        let webhooks = Webhooks::new(call, None, options.dry_run);
        if let Some(webhooks) = &webhooks {
            let again = |new: &mut Value| admission::mutate_create(call, new);
            Box::pin(webhooks.mutate(&mut new, warnings, again)).await?;
        }
        admission::nodes::check(call, Some(&new), None)?;
        authz::check_escalation(call, &new, None)?;
        admission::settle_create(call, &mut new)?;
        prepare_create(kind, &mut new, warnings)?;
        note_creation(call, &mut new, options);
        admission::check_create(call, &new)?;
        if let Some(webhooks) = &webhooks {
            Box::pin(webhooks.validate(Some(&new), warnings)).await?;
        }
        let object_key = key::object(kind, meta::namespace(&new), meta::name(&new));
        let allocation = services::allocate(call, &mut new, None)?;
        let charge = quota::charge(call, &new, None)?;
        if options.dry_run {
            if let Some(existing) = call.server.store.get(&object_key) {
                return Err(already_exists(call, &existing.value));
            }
            return Ok(Written::Unstored(new));
        }
        let told = caveat::event(kind, &new, Timestamp::now());
        let mut txn = Txn::new().put(
            object_key.clone(),
            encode(&stored_form(kind, new)),
            Condition::Absent,
        );
        txn = caveat::add_to(txn, call.server, told);
        if let Some((namespace_key, revision)) = namespace {
            txn = txn.check(namespace_key, Condition::Unchanged(revision));
        }
        match call
            .server
            .store
            .commit(charge.add_to(allocation.add_to(txn)))
            .await
        {
            Ok(committed) => return stored(committed),
            // Many may write what one quota counts: each time, one of them has come through.
            Err(CommitError::Conflict(conflict)) if charge.has(&conflict.key) => {}
            Err(CommitError::Conflict(conflict)) => {
                lost += 1;
                if let Some(existing) = conflict
                    .current
                    .filter(|_| conflict.key == object_key && !generated)
                {
                    return Err(already_exists(call, &existing.value));
                }
                // The generated name or an address is taken, or the namespace has changed: again.
            }
            Err(error) => return Err(commit_error(&error)),
        }
    }
    Err(ApiError::new(
        500,
        "ServerTimeout",
        "the object could not be created: too many concurrent changes",
    ))
}

/// Takes an update to the store: all of the way of a PUT after decoding. `before` is what `old`
/// holds.
pub(crate) async fn write_update(
    call: &Call<'_>,
    old: &Stored,
    before: &Value,
    mut new: Value,
    change: Change,
    options: WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Written, Failure> {
    let kind = call.kind;
    (kind.logic.set_defaults)(&mut new).map_err(broken)?;
    keep_metadata(&mut new, before);
    if options.fields == FieldSource::Sent {
        keep_notes(&mut new, before);
    }
    keep_parts(kind, &mut new, before, change);
    let webhooks = Webhooks::new(call, Some(before), options.dry_run);
    if change == Change::Main {
        admission::mutate_update(call, &mut new, before)?;
    }
    if let Some(webhooks) = &webhooks {
        let again = |new: &mut Value| {
            keep_metadata(new, before);
            keep_parts(kind, new, before, change);
            Ok(())
        };
        Box::pin(webhooks.mutate(&mut new, warnings, again)).await?;
    }
    admission::nodes::check(call, Some(&new), Some(before))?;
    if change == Change::Main {
        authz::check_escalation(call, &new, Some(before))?;
    }
    prepare_update(kind, &mut new, before, change)?;
    if !is_same(&new, before) {
        note_update(call, before, &mut new, change, options);
    }
    validate_update(call, &new, before, change)?;
    admission::check_part(call, &new, before, change)?;
    if change == Change::Main {
        admission::check_update(call, &new, before)?;
        warnings.extend((kind.logic.warnings)(&new, Some(before)).map_err(broken)?);
    }
    if let Some(webhooks) = &webhooks {
        Box::pin(webhooks.validate(Some(&new), warnings)).await?;
    }
    let allocation = services::allocate(call, &mut new, Some(before))?;
    let charge = quota::charge(call, &new, Some(before))?;
    let object_key = call.key();
    let unchanged = Condition::Unchanged(old.revision());
    let ends = is_end_of_deletion(kind, &new);
    if options.dry_run || (ends && is_same(&new, before)) {
        return Ok(Written::Unstored(new));
    }
    if is_same(&new, before) {
        return Ok(Written::Stored(old.clone()));
    }
    let mut shown = new.clone();
    let txn = if ends {
        services::release(Txn::new().delete(object_key, unchanged), kind, before)
    } else {
        let txn = Txn::new().put(object_key, encode(&stored_form(kind, new)), unchanged);
        charge.add_to(allocation.add_to(txn))
    };
    match call.server.store.commit(txn).await {
        Ok(committed) if ends => {
            meta::set(
                &mut shown,
                "resourceVersion",
                committed.revision.get().to_string(),
            );
            Ok(Written::Unstored(shown))
        }
        Ok(committed) => Ok(stored(committed)?),
        Err(CommitError::Conflict(conflict)) if conflict.current.is_none() && !charge.has(&conflict.key) => {
            Err(call.not_found().into())
        }
        Err(CommitError::Conflict(_)) => Err(Failure::LostRace(modified(call))),
        Err(error) => Err(commit_error(&error).into()),
    }
}

/// The object that a transaction wrote first.
fn stored(committed: stead_store::Committed<Stored>) -> Result<Written, ApiError> {
    let entry = committed.events.first().and_then(|event| event.current());
    entry
        .map(|entry| Written::Stored(entry.value.clone()))
        .ok_or_else(|| ApiError::internal("nothing was written"))
}

fn stored_form(kind: &Kind, object: Value) -> Value {
    match kind.stored_as {
        None => object,
        Some(stored) => (stored.to_stored)(object),
    }
}

fn validate_update(call: &Call<'_>, new: &Value, old: &Value, change: Change) -> Result<(), ApiError> {
    let kind = call.kind;
    let errors = match change {
        Change::Main | Change::Finalize => kind.validate_update(new, old),
        Change::Status => kind.validate_status_update(new, old),
        Change::Approval => kind.validate_approval_update(new, old),
    };
    let errors = errors.map_err(broken)?;
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        stored_group(kind),
        kind.kind,
        meta::name(new),
        &errors,
    ))
}

/// Checks the resourceVersion and uid that a client sent with an update, and sets those of the
/// object that it is based on. Says whether the client set a condition.
pub(super) fn check_version(call: &Call<'_>, new: &mut Value, old: &Value) -> Result<bool, ApiError> {
    let kind = call.kind;
    let version = meta::text(new, "resourceVersion");
    let own = meta::text(old, "resourceVersion").to_owned();
    let conditional = !version.is_empty() && version != "0";
    if conditional {
        if version.parse::<u64>().is_err() {
            let quoted = stead_api::error::quote(version);
            return Err(ApiError::new(
                500,
                "",
                format!("strconv.ParseUint: parsing {quoted}: invalid syntax"),
            ));
        }
        if version != own {
            return Err(modified(call));
        }
    } else if !kind.unconditional_update {
        let mut errors = Errors::new();
        let zero = stead_api::error::GoSyntax("0x0".to_owned());
        let path = stead_api::error::Path::new("metadata").child("resourceVersion");
        errors.invalid(&path, &zero, "must be specified for an update");
        return Err(ApiError::invalid(
            kind.group,
            kind.plural,
            &call.path.name,
            &errors,
        ));
    }
    let uid = meta::uid(new).to_owned();
    let actual = meta::uid(old);
    if call
        .headers
        .get("content-type")
        .is_none_or(|media| !String::from_utf8_lossy(media.as_bytes()).contains("patch+"))
        && !uid.is_empty()
        && uid != actual
    {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry{}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}",
            call.key()
        );
        return Err(ApiError::conflict(kind.group, kind.plural, &call.path.name, &why));
    }
    meta::set(new, "resourceVersion", own);
    Ok(conditional)
}

/// Whether an update takes away the last thing that kept a deleted object.
fn is_end_of_deletion(kind: &Kind, new: &Value) -> bool {
    let content_done =
        kind.kind != "Namespace" || new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    meta::is_deleting(new)
        && meta::finalizers(new).is_empty()
        && new["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && content_done
}

/// Whether two states of an object differ in nothing but their versions.
fn is_same(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            let same_metadata = match (new.get("metadata"), old.get("metadata")) {
                (Some(Value::Object(new)), Some(Value::Object(old))) => {
                    fields_but("resourceVersion", new).eq(fields_but("resourceVersion", old))
                }
                (new, old) => new == old,
            };
            same_metadata && fields_but("metadata", new).eq(fields_but("metadata", old))
        }
        (new, old) => new == old,
    }
}

/// The fields of an object but for one, sorted by their names.
fn fields_but<'o>(
    left_out: &'static str,
    object: &'o Map<String, Value>,
) -> impl Iterator<Item = (&'o String, &'o Value)> {
    object.iter().filter(move |(name, _)| *name != left_out)
}

fn already_exists(call: &Call<'_>, existing: &Stored) -> ApiError {
    let existing = existing.value();
    let mut error = ApiError::already_exists(call.kind.group, call.kind.plural, meta::name(&existing));
    if meta::is_deleting(&existing) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

/// 409 for an update based on an older state.
pub(super) fn modified(call: &Call<'_>) -> ApiError {
    ApiError::conflict(
        call.kind.group,
        call.kind.plural,
        &call.path.name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// What a write that the store refused means to the client.
pub(super) fn commit_error(error: &CommitError<Stored>) -> ApiError {
    match error {
        CommitError::Closed => closed(),
        CommitError::TooLarge { .. } => ApiError::new(413, "RequestEntityTooLarge", error.to_string()),
        error => ApiError::internal(error),
    }
}

pub(super) fn broken(error: NotOfKind) -> ApiError {
    let source = std::error::Error::source(&error)
        .map(ToString::to_string)
        .unwrap_or_default();
    ApiError::internal(format!("{error}: {source}"))
}

/// An answer with what was written, or why nothing was. Either comes with the warnings.
pub(super) fn answer(
    call: &Call<'_>,
    status: u16,
    written: Result<Written, ApiError>,
    warnings: &[String],
) -> Result<Response, ApiError> {
    let mut response = match written {
        Err(error) => respond::error(call.accepted.encoding, &error),
        Ok(Written::Stored(object))
            if call.accepted.form == respond::Form::Whole && call.kind.stored_as.is_none() =>
        {
            respond::encoded(status, call.accepted.encoding, object.json())
        }
        Ok(written) => show(call, status, &written.into_value(call.kind))?,
    };
    respond::warn(&mut response, warnings);
    Ok(response)
}
