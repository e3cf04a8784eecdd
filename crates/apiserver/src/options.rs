//! The options of requests: list and watch, write, delete; read from the query and, for deletes,
//! the body, and checked as `metav1`'s options are.

use std::time::Duration;

use serde_json::Value;
use stead_api::error::{ApiError, Errors, GoSyntax, Path, quote};
use stead_api::registry::Kind;
use stead_api::schema::{self, builtin};
use stead_api::selector::{FieldSelector, Selector};
use stead_store::Revision;

use crate::request::Query;

/// What a client wants of unknown and duplicate fields ("Field validation").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of create, update and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    /// Everything but the write itself is done.
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) fields: FieldSource,
}

/// Where it is said who has set an object's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldSource {
    /// Nowhere yet: it follows from what the write changes.
    Sent,
    /// In the object, by server-side apply.
    Applied,
}

impl WriteOptions {
    /// Reads them; `kind` is the options' own kind, e.g. `CreateOptions`.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<WriteOptions, ApiError> {
        let mut errors = Errors::new();
        let dry_run = parse_dry_run(&query.all("dryRun"), &mut errors);
        if let Some(manager) = query.get("fieldManager") {
            let path = Path::new("fieldManager");
            if manager.len() > 128 {
                errors.too_long(&path, 128);
            }
            if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
                let why = format!("invalid character U+{:04X} (at position {at})", c as u32);
                errors.invalid(&path, manager, &why);
            }
        }
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                );
                FieldValidation::Warn
            }
        };
        checked(kind, &errors)?;
        Ok(WriteOptions {
            dry_run,
            field_validation,
            fields: FieldSource::Sent,
        })
    }

    /// Who applies says who they are.
    pub(crate) fn check_apply(query: &Query) -> Result<(), ApiError> {
        let mut errors = Errors::new();
        if query.text("fieldManager").is_none() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        checked("PatchOptions", &errors)
    }

    /// Only who applies can take fields from others.
    pub(crate) fn check_patch(query: &Query) -> Result<(), ApiError> {
        let mut errors = Errors::new();
        if query.get("force").is_some() {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        checked("PatchOptions", &errors)
    }
}

fn parse_dry_run(values: &[&str], errors: &mut Errors) -> bool {
    if values.iter().any(|value| *value != "All") {
        let shown: Vec<_> = values.iter().map(|value| quote(value)).collect();
        let shown = GoSyntax(format!("[]string{{{}}}", shown.join(", ")));
        errors.not_supported(&Path::new("dryRun"), &shown, &["All"]);
    }
    !values.is_empty()
}

fn checked(kind: &str, errors: &Errors) -> Result<(), ApiError> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid("meta.k8s.io", kind, "", errors))
    }
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    /// As options name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

/// Options of deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    pub(crate) grace_period_seconds: Option<i64>,
    /// None: the kind's own way.
    pub(crate) propagation: Option<Propagation>,
    /// The object must have this uid.
    pub(crate) uid: Option<String>,
    /// The object must have this resourceVersion.
    pub(crate) resource_version: Option<String>,
}

impl DeleteOptions {
    /// From the query where the body is empty, else from the body.
    pub(crate) fn parse(query: &Query, body: Option<Value>) -> Result<DeleteOptions, ApiError> {
        let body = match body {
            Some(body) => body,
            None => options_of(query)?,
        };
        let mut errors = Errors::new();
        let dry_run: Vec<_> = body["dryRun"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let dry_run = parse_dry_run(&dry_run, &mut errors);
        let path = Path::new("propagationPolicy");
        let policy = body["propagationPolicy"].as_str();
        let orphan = body["orphanDependents"].as_bool();
        let propagation = match (policy, orphan) {
            (Some(policy), Some(_)) => {
                errors.invalid(
                    &path,
                    policy,
                    "orphanDependents and deletionPropagation cannot be both set",
                );
                None
            }
            (None, None) => None,
            (None, Some(true)) | (Some("Orphan"), None) => Some(Propagation::Orphan),
            (None, Some(false)) | (Some("Background"), None) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some(other), None) => {
                errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        checked("DeleteOptions", &errors)?;
        let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            dry_run,
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            propagation,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
        })
    }
}

/// Delete options from the query, in the form of a body.
fn options_of(query: &Query) -> Result<Value, ApiError> {
    let mut body = serde_json::json!({});
    if !query.all("dryRun").is_empty() {
        body["dryRun"] = query.all("dryRun").into();
    }
    if let Some(policy) = query.text("propagationPolicy") {
        body["propagationPolicy"] = policy.into();
    }
    if query.text("orphanDependents").is_some() {
        body["orphanDependents"] = query.is_true("orphanDependents").into();
    }
    if let Some(seconds) = number(query, "gracePeriodSeconds")? {
        body["gracePeriodSeconds"] = seconds.into();
    }
    Ok(body)
}

/// Decodes the body of a delete.
pub(crate) fn delete_body(value: Value) -> Result<Value, ApiError> {
    let kind = value["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        let version = value["apiVersion"].as_str().unwrap_or_default();
        return Err(ApiError::new(
            500,
            "",
            format!(
                "no kind {} is registered for version {} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
                quote(kind),
                quote(version)
            ),
        ));
    }
    let ty = builtin()
        .find("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .expect("DeleteOptions is in the table");
    schema::decode_value(builtin(), ty, value)
        .map(|decoded| decoded.value)
        .map_err(|error| ApiError::new(500, "", error))
}

/// Which version of the data a list or watch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The most recent.
    Latest,
    /// Any, or this one or a later one (zero: any).
    NotOlderThan(Revision),
    /// Exactly this one.
    Exact(Revision),
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
    pub(crate) version: Version,
    /// Zero: no limit.
    pub(crate) limit: usize,
    pub(crate) continue_from: Option<String>,
    /// How long a watch lasts.
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    /// A watch begins with the present state and a bookmark that ends it.
    pub(crate) initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads them for a kind.
    pub(crate) fn parse(query: &Query, kind: &Kind, watch: bool) -> Result<ListOptions, ApiError> {
        let labels =
            Selector::parse(query.get("labelSelector").unwrap_or_default()).map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        for field in fields.fields() {
            check_selectable(kind, field)?;
        }
        // Selectors are asked of objects as they are stored.
        let fields = match kind.stored_as {
            Some(stored) => fields.renamed(stored.stored_field),
            None => fields,
        };
        let timeout = number(query, "timeoutSeconds")?
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs);
        let limit = number(query, "limit")?
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(0);
        let initial_events = query
            .text("sendInitialEvents")
            .map(|_| query.is_true("sendInitialEvents"));
        check_version_match(query, watch, initial_events)?;
        Ok(ListOptions {
            labels,
            fields,
            version: parse_version(query)?,
            limit,
            continue_from: query.text("continue").map(str::to_owned),
            timeout,
            bookmarks: query.is_true("allowWatchBookmarks"),
            initial_events,
        })
    }

    /// Whether it selects every object.
    pub(crate) fn selects_all(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}

fn check_selectable(kind: &Kind, field: &str) -> Result<(), ApiError> {
    if kind.is_selectable(field) {
        return Ok(());
    }
    // Kinds with fields of their own answer in other words than the rest.
    Err(ApiError::bad_request(if kind.selectable.is_empty() {
        format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            quote(field)
        )
    } else {
        format!("field label not supported: {field}")
    }))
}

fn check_version_match(query: &Query, watch: bool, initial_events: Option<bool>) -> Result<(), ApiError> {
    let Some(wanted) = query.text("resourceVersionMatch") else {
        if initial_events.is_some() {
            let mut errors = Errors::new();
            let path = Path::new("resourceVersionMatch");
            errors.forbidden(
                &path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return checked("ListOptions", &errors);
        }
        return Ok(());
    };
    let mut errors = Errors::new();
    let path = Path::new("resourceVersionMatch");
    let version = query.get("resourceVersion").unwrap_or_default();
    if watch && initial_events.is_none() {
        errors.forbidden(
            &path,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    } else if version.is_empty() && !watch {
        errors.forbidden(
            &path,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    } else if query.text("continue").is_some() {
        errors.forbidden(
            &path,
            "resourceVersionMatch is forbidden when continue is provided",
        );
    } else if !matches!(wanted, "Exact" | "NotOlderThan") {
        errors.not_supported(&path, wanted, &["Exact", "NotOlderThan", ""]);
    } else if wanted == "Exact" && version == "0" {
        errors.forbidden(
            &path,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        );
    }
    checked("ListOptions", &errors)
}

fn parse_version(query: &Query) -> Result<Version, ApiError> {
    let Some(text) = query.text("resourceVersion") else {
        return Ok(Version::Latest);
    };
    let number = text.parse::<u64>().map_err(|_| {
        ApiError::new(
            500,
            "",
            format!(
                "resourceVersion: Invalid value: {}: strconv.ParseUint: parsing {}: invalid syntax",
                quote(text),
                quote(text)
            ),
        )
    })?;
    let exact = query.get("resourceVersionMatch") == Some("Exact");
    let revision = Revision::new(number);
    Ok(if exact {
        Version::Exact(revision)
    } else {
        Version::NotOlderThan(revision)
    })
}

fn number(query: &Query, key: &str) -> Result<Option<i64>, ApiError> {
    query
        .text(key)
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {}: invalid syntax",
                    quote(text)
                ))
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options_come_from_body_or_query() {
        let query = Query::parse(Some("propagationPolicy=Orphan&gracePeriodSeconds=5&dryRun=All"));
        let options = DeleteOptions::parse(&query, None).expect("options");
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!((options.grace_period_seconds, options.dry_run), (Some(5), true));
        let body = serde_json::json!({"preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse(&query, Some(body)).expect("options");
        assert_eq!(
            (options.uid.as_deref(), options.propagation, options.dry_run),
            (Some("u"), None, false)
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let body = serde_json::json!({"propagationPolicy": "Orphan", "orphanDependents": true});
        let error = DeleteOptions::parse(&Query::default(), Some(body)).expect_err("both are set");
        assert_eq!(error.code, 422);
        assert!(
            error
                .message
                .ends_with("orphanDependents and deletionPropagation cannot be both set")
        );
        let error =
            WriteOptions::parse(&Query::parse(Some("dryRun=Some")), "CreateOptions").expect_err("no such");
        assert!(
            error
                .message
                .contains("dryRun: Unsupported value: []string{\"Some\"}"),
            "{}",
            error.message
        );
    }
}
