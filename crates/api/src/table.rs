//! Tables: what `kubectl get` shows (`meta.k8s.io/v1` Table; "Receiving resources as Tables").

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object::NotOfKind;
use crate::registry::Kind;
use crate::time::human_duration;

/// What a row carries of its object beside the cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata, as PartialObjectMetadata.
    Metadata,
    /// All of it.
    Object,
}

/// A Table of some objects. `metadata` is that of the list.
pub fn table<'o>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'o Value>,
    metadata: Value,
    include: Include,
    now: Timestamp,
) -> Result<Value, NotOfKind> {
    let rows = objects
        .into_iter()
        .map(|object| {
            let mut row = json!({"cells": (kind.logic.row)(object, now)?});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial_metadata(object),
                Include::Object => row["object"] = object.clone(),
            }
            Ok(row)
        })
        .collect::<Result<Vec<_>, NotOfKind>>()?;
    Ok(json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_definitions(kind),
        "rows": rows,
    }))
}

/// The columns of a kind as the API gives them.
pub fn column_definitions(kind: &Kind) -> Value {
    kind.columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.ty,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect()
}

/// An object's metadata alone.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// The cell of an age: the time since then, `<unknown>` where there is none.
pub fn age(then: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, now: Timestamp) -> Value {
    since(then.map(|then| then.0), now)
}

/// The time since then, `<unknown>` where there is none.
pub(crate) fn since(then: Option<Timestamp>, now: Timestamp) -> Value {
    match then {
        None => "<unknown>".into(),
        Some(then) => human_duration((now.as_millisecond() - then.as_millisecond()).div_euclid(1000)).into(),
    }
}

/// The texts joined by commas, cut after three as Kubernetes does where `more` would follow.
pub fn list_or_none(texts: &[String]) -> Value {
    if texts.is_empty() {
        "<none>".into()
    } else {
        texts.join(",").into()
    }
}
