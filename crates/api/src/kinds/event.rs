//! Event, in core/v1 and events.k8s.io/v1. Both are views of the same objects, which are stored as
//! those of the core group; the newer group asks more of what is written through it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::{Value, json};

use super::{FIELD_IMMUTABLE, name_cell, text};
use crate::error::{Errors, GoSyntax, Path};
use crate::object::{ApiObject, Logic, NotOfKind, read};
use crate::registry::{Column, Kind, StoredAs};
use crate::table::since;
use crate::{go, meta, names, schema};

pub(super) static CORE_KIND: Kind = Kind {
    selectable: &[
        ("involvedObject.kind", &["involvedObject", "kind"]),
        ("involvedObject.namespace", &["involvedObject", "namespace"]),
        ("involvedObject.name", &["involvedObject", "name"]),
        ("involvedObject.uid", &["involvedObject", "uid"]),
        ("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
        (
            "involvedObject.resourceVersion",
            &["involvedObject", "resourceVersion"],
        ),
        ("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
        ("reason", &["reason"]),
        ("reportingComponent", &["reportingComponent"]),
        ("source", &["source", "component"]),
        ("type", &["type"]),
    ],
    ..kind(
        ("", "v1", "Event"),
        "io.k8s.api.core.v1.Event",
        Logic::of::<Event>(),
    )
};

pub(super) static KIND: Kind = Kind {
    selectable: &[
        ("regarding.kind", &["regarding", "kind"]),
        ("regarding.namespace", &["regarding", "namespace"]),
        ("regarding.name", &["regarding", "name"]),
        ("regarding.uid", &["regarding", "uid"]),
        ("regarding.apiVersion", &["regarding", "apiVersion"]),
        ("regarding.resourceVersion", &["regarding", "resourceVersion"]),
        ("regarding.fieldPath", &["regarding", "fieldPath"]),
        ("reason", &["reason"]),
        ("reportingController", &["reportingController"]),
        ("type", &["type"]),
    ],
    stored_as: Some(StoredAs {
        group: "",
        to_stored,
        from_stored,
        stored_field,
    }),
    ..kind(
        ("events.k8s.io", "v1", "Event"),
        "io.k8s.api.events.v1.Event",
        STRICT,
    )
};

/// What both groups have in common.
const fn kind(of: (&'static str, &'static str, &'static str), type_name: &'static str, logic: Logic) -> Kind {
    Kind {
        short_names: &["ev"],
        create_on_update: true,
        update_metadata: &[],
        metadata_last: true,
        columns: COLUMNS,
        ..Kind::new(of, ("events", "event"), type_name, logic)
    }
}

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "time since it last happened"),
    Column::new("Type", "Normal or Warning"),
    Column::new("Reason", "why it happened, in one word"),
    Column::new("Object", "what it is about"),
    Column::wide("Subobject", "which part of the object it is about"),
    Column::wide("Source", "who reported it"),
    Column::new("Message", "what happened"),
    Column::wide("First Seen", "time since it first happened"),
    Column::wide("Count", "how often it happened"),
    Column {
        priority: 1,
        ..Column::NAME
    },
];

/// The logic of the newer group: that of the stored form, with further checks.
const STRICT: Logic = Logic {
    set_defaults: |_| Ok(()),
    prepare_for_create: |_| Ok(()),
    prepare_for_update: |_, _| Ok(()),
    prepare_for_status_update: |_, _| Ok(()),
    validate: |value, errors| {
        let event = stored(value)?;
        validate_as(&event, CONTROLLER, errors);
        meta::validate(value, true, names::dns_subdomain, errors);
        validate_strictly(&event, errors);
        Ok(())
    },
    validate_update: |value, old, errors| {
        let event = stored(value)?;
        validate_as(&event, CONTROLLER, errors);
        meta::validate_update(value, old, errors);
        validate_change(&event, &stored(old)?, errors);
        Ok(())
    },
    validate_status_update: |_, _, _| Ok(()),
    validate_approval_update: |_, _, _| Ok(()),
    warnings: |_, _| Ok(Vec::new()),
    row: |value, now| Ok(stored(value)?.row(now)),
};

/// The name of the field that says who reports, which differs between the groups.
const CONTROLLER: &str = "reportingController";

const MAX_TEXT: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// Fields that differ in name: in events.k8s.io, in core.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn stored(value: &Value) -> Result<Event, NotOfKind> {
    read(&to_stored(value.clone()))
}

/// From events.k8s.io/v1 to core/v1.
fn to_stored(event: Value) -> Value {
    let mut event = rename(event, "v1", RENAMED.into_iter());
    schema::normalize(schema::builtin(), CORE_KIND.type_id(), &mut event);
    event
}

/// From core/v1 to events.k8s.io/v1.
fn from_stored(event: Value) -> Value {
    let renamed = RENAMED.into_iter().map(|(new, core)| (core, new));
    let mut event = rename(event, "events.k8s.io/v1", renamed);
    // What is empty here need not be there, unlike in the core group.
    schema::normalize(schema::builtin(), KIND.type_id(), &mut event);
    event
}

/// The core group's name of a selectable field.
fn stored_field(field: &str) -> String {
    let (first, rest) = field.split_once('.').unwrap_or((field, ""));
    match RENAMED.iter().find(|(new, _)| *new == first) {
        Some((_, core)) if rest.is_empty() => (*core).to_owned(),
        Some((_, core)) => format!("{core}.{rest}"),
        None => field.to_owned(),
    }
}

fn rename(
    mut event: Value,
    api_version: &str,
    renamed: impl Iterator<Item = (&'static str, &'static str)>,
) -> Value {
    if let Some(fields) = event.as_object_mut() {
        for (from, to) in renamed {
            if let Some(value) = fields.remove(from) {
                let is_unset = match &value {
                    Value::Null => true,
                    Value::String(text) => text.is_empty(),
                    Value::Object(fields) => fields.is_empty(),
                    _ => false,
                };
                if !is_unset {
                    fields.insert(to.to_owned(), value);
                }
            }
        }
        if fields.contains_key("apiVersion") {
            fields.insert("apiVersion".to_owned(), api_version.into());
        }
    }
    event
}

impl ApiObject for Event {
    fn validate(&self, errors: &mut Errors) {
        validate_as(self, "reportingComponent", errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let event_time = self.event_time.as_ref().map(|time| time.0);
        let first = self.first_timestamp.as_ref().map(|time| time.0).or(event_time);
        let last = self.last_timestamp.as_ref().map(|time| time.0).or(first);
        let count = self.count.unwrap_or(0);
        let (last, count) = match &self.series {
            Some(series) => (
                series.last_observed_time.as_ref().map(|time| time.0),
                series.count.unwrap_or(0),
            ),
            None => (last, count.max(i32::from(count == 0))),
        };
        let involved = &self.involved_object;
        let kind = text(&involved.kind).to_lowercase();
        let target = match text(&involved.name) {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            since(last, now),
            text(&self.type_).into(),
            text(&self.reason).into(),
            target.into(),
            text(&involved.field_path).into(),
            source_cell(self).into(),
            text(&self.message).trim().into(),
            since(first, now),
            count.into(),
            name_cell(&self.metadata),
        ]
    }
}

/// Who reported it: in the old form, or else in the new one.
fn source_cell(event: &Event) -> String {
    let source = event.source.clone().unwrap_or_default();
    let either = |old: Option<String>, new: &Option<String>| {
        old.filter(|old| !old.is_empty())
            .unwrap_or_else(|| text(new).to_owned())
    };
    let component = either(source.component, &event.reporting_component);
    let instance = either(source.host, &event.reporting_instance);
    if instance.is_empty() {
        component
    } else {
        format!("{component}, {instance}")
    }
}

/// The checks of the core group.
fn validate_as(event: &Event, controller_field: &'static str, errors: &mut Errors) {
    let namespace = text(&event.metadata.namespace);
    let involved = text(&event.involved_object.namespace);
    let is_new = event.event_time.is_some();
    let agrees = match (involved, is_new) {
        ("", false) => matches!(namespace, "" | "default"),
        ("", true) => matches!(namespace, "default" | "kube-system"),
        (involved, false) => namespace == involved,
        (_, true) => true,
    };
    if !agrees {
        let path = Path::new("involvedObject").child("namespace");
        errors.invalid(&path, involved, "does not match event.namespace");
    }
    if is_new {
        validate_new(event, controller_field, errors);
    }
    errors.invalid_each(
        &Path::new("namespace"),
        namespace,
        names::dns_subdomain(namespace),
    );
}

/// Events with an event time are of the new form and need to be complete.
fn validate_new(event: &Event, controller_field: &'static str, errors: &mut Errors) {
    let (path, controller) = (Path::new(controller_field), text(&event.reporting_component));
    errors.present(&path, controller);
    errors.invalid_each(&path, controller, names::qualified_name(controller));
    for (field, value) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        errors.present(&Path::new(field), text(value));
        limit(&Path::new(field), text(value), MAX_TEXT, errors);
    }
    limit(&Path::new("message"), text(&event.message), MAX_MESSAGE, errors);
}

fn limit(path: &Path, value: &str, limit: usize, errors: &mut Errors) {
    if value.len() > limit {
        errors.invalid(path, "", &format!("can have at most {limit} characters"));
    }
}

/// What a new event of events.k8s.io/v1 must be, beside.
fn validate_strictly(event: &Event, errors: &mut Errors) {
    validate_series(event, errors);
    if event.event_time.is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let ty = text(&event.type_);
    if !matches!(ty, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", &format!("has invalid value: {ty}"));
    }
    let source = event.source.clone().unwrap_or_default();
    for (field, is_set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        (
            "source",
            !text(&source.component).is_empty() || !text(&source.host).is_empty(),
        ),
    ] {
        if is_set {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

fn validate_series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    let path = Path::new("series");
    if series.count.unwrap_or(0) < 2 {
        errors.invalid(&path.child("count"), "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errors.required(&path.child("lastObservedTime"), "");
    }
}

/// Through events.k8s.io/v1 only the series of an event can change.
fn validate_change(new: &Event, old: &Event, errors: &mut Errors) {
    if new.series != old.series {
        validate_series(new, errors);
    }
    let mut same = |field: &'static str, same: bool, shown: GoSyntax| {
        if !same {
            errors.invalid(&Path::new(field), &shown, FIELD_IMMUTABLE);
        }
    };
    let quoted = |value: &Option<String>| GoSyntax(crate::error::quote(text(value)));
    let time = |value: Option<Timestamp>| GoSyntax(go_time(value));
    let object = |value: &Value| go::syntax("core.ObjectReference", value);
    same(
        "involvedObject",
        new.involved_object == old.involved_object,
        object(&json!(new.involved_object)),
    );
    same(
        "reason",
        text(&new.reason) == text(&old.reason),
        quoted(&new.reason),
    );
    same(
        "message",
        text(&new.message) == text(&old.message),
        quoted(&new.message),
    );
    let (source, old_source) = (
        new.source.clone().unwrap_or_default(),
        old.source.clone().unwrap_or_default(),
    );
    same(
        "source",
        source == old_source,
        go::syntax("core.EventSource", &source),
    );
    let first = new.first_timestamp.as_ref().map(|time| time.0);
    same(
        "firstTimestamp",
        new.first_timestamp == old.first_timestamp,
        time(first),
    );
    let last = new.last_timestamp.as_ref().map(|time| time.0);
    same(
        "lastTimestamp",
        new.last_timestamp == old.last_timestamp,
        time(last),
    );
    let count = new.count.unwrap_or(0);
    same(
        "count",
        count == old.count.unwrap_or(0),
        GoSyntax(count.to_string()),
    );
    same(
        "reason",
        text(&new.reason) == text(&old.reason),
        quoted(&new.reason),
    );
    same("type", text(&new.type_) == text(&old.type_), quoted(&new.type_));
    same(
        "eventTime",
        new.event_time == old.event_time,
        time(new.event_time.as_ref().map(|time| time.0)),
    );
    same(
        "action",
        text(&new.action) == text(&old.action),
        quoted(&new.action),
    );
    let related = new
        .related
        .as_ref()
        .map_or_else(|| GoSyntax("\"null\"".to_owned()), |it| object(&json!(it)));
    same("related", new.related == old.related, related);
    let (controller, instance) = (&new.reporting_component, &new.reporting_instance);
    same(
        CONTROLLER,
        text(controller) == text(&old.reporting_component),
        quoted(controller),
    );
    same(
        "reportingInstance",
        text(instance) == text(&old.reporting_instance),
        quoted(instance),
    );
}

/// A time as Go shows it.
fn go_time(time: Option<Timestamp>) -> String {
    let Some(time) = time else {
        return "0001-01-01 00:00:00 +0000 UTC".to_owned();
    };
    time.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(kind: &Kind, event: Value) -> Vec<String> {
        let mut errors = Errors::new();
        (kind.logic.validate)(&event, &mut errors).expect("an event");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_namespaces_of_event_and_object_agree() {
        let event = |namespace: &str, involved: &str| json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": {"namespace": involved}});
        assert_eq!(errors(&CORE_KIND, event("a", "a")), Vec::<String>::new());
        assert_eq!(errors(&CORE_KIND, event("default", "")), Vec::<String>::new());
        assert_eq!(
            errors(&CORE_KIND, event("a", "other")),
            ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
        );
    }

    #[test]
    fn the_newer_group_asks_for_more() {
        let event = json!({"metadata": {"name": "e", "namespace": "a"}, "regarding": {"namespace": "a"}});
        assert_eq!(
            errors(&KIND, event),
            [
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: "
            ]
        );
    }

    #[test]
    fn events_convert_both_ways() {
        let as_encoded = |kind: &Kind, mut event: Value| {
            schema::normalize(schema::builtin(), kind.type_id(), &mut event);
            event
        };
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Tested",
            "involvedObject": {"kind": "Pod"}, "message": "hello", "source": {"component": "c"}, "count": 3,
            "reportingComponent": "r", "firstTimestamp": "2024-01-01T00:00:00Z",
        });
        let core = as_encoded(&CORE_KIND, core);
        let new = from_stored(core.clone());
        let expected = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Tested",
            "regarding": {"kind": "Pod"}, "note": "hello", "deprecatedSource": {"component": "c"},
            "deprecatedCount": 3, "reportingController": "r",
            "deprecatedFirstTimestamp": "2024-01-01T00:00:00Z",
        });
        assert_eq!(new, as_encoded(&KIND, expected));
        // Empty, it is written in the core group only.
        assert_eq!(core["reportingInstance"], "");
        assert!(new.get("reportingInstance").is_none());
        assert_eq!(to_stored(new), core);
        assert_eq!(stored_field("regarding.name"), "involvedObject.name");
    }

    #[test]
    fn only_the_series_changes_through_the_newer_group() {
        let event = |note: &str, count: i32| {
            json!({"metadata": {"name": "e", "namespace": "a", "resourceVersion": "1"}, "note": note,
                   "regarding": {"namespace": "a"}, "series": {"count": count, "lastObservedTime": "2024-01-01T00:00:00.000000Z"}})
        };
        let mut errors = Errors::new();
        (KIND.logic.validate_update)(&event("x", 3), &event("x", 2), &mut errors).expect("events");
        assert!(errors.is_empty(), "{}", errors.summary());
        (KIND.logic.validate_update)(&event("y", 2), &event("x", 2), &mut errors).expect("events");
        assert_eq!(
            errors.summary(),
            "message: Invalid value: \"y\": field is immutable"
        );
    }

    #[test]
    fn the_row_tells_when_and_how_often() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": " hello\n",
            "type": "Normal", "reason": "Tested", "source": {"component": "c", "host": "h"},
            "firstTimestamp": "1969-12-31T23:59:00Z",
        }))
        .expect("an event");
        let row = event.row(Timestamp::UNIX_EPOCH);
        let expected = json!([
            "60s", "Normal", "Tested", "pod/p", "", "c, h", "hello", "60s", 1, "e"
        ]);
        assert_eq!(Value::Array(row), expected);
    }
}
