//! ControllerRevision (apps/v1): a StatefulSet's template as it was.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use super::{FIELD_IMMUTABLE, name_cell};
use crate::error::{Errors, GoSyntax, Path, qualified};
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::table::age;

pub(super) static KIND: Kind = Kind {
    columns: &[
        Column::NAME,
        Column::new("Controller", "whose revision it is"),
        Column::new("Revision", "its number"),
        Column::AGE,
    ],
    ..Kind::new(
        ("apps", "v1", "ControllerRevision"),
        ("controllerrevisions", "controllerrevision"),
        "io.k8s.api.apps.v1.ControllerRevision",
        Logic::of::<ControllerRevision>(),
    )
};

impl ApiObject for ControllerRevision {
    fn validate(&self, errors: &mut Errors) {
        // Since 1.34 only objects will do.
        match &self.data.0 {
            Value::Object(_) => {}
            Value::Null => errors.required(&Path::new("data"), "data is mandatory"),
            _ => errors.required(&Path::new("data"), "data must be a valid JSON object"),
        }
        errors.nonnegative(&Path::new("revision"), self.revision.unwrap_or(0));
    }

    fn validate_update(&self, old: &ControllerRevision, errors: &mut Errors) {
        self.validate(errors);
        if self.data != old.data {
            errors.invalid(&Path::new("data"), &unknown(&self.data.0), FIELD_IMMUTABLE);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let owners = self.metadata.owner_references.iter().flatten();
        let controller = owners
            .filter(|owner| owner.controller == Some(true))
            .map(|owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                format!("{}/{}", qualified(group, &owner.kind).to_lowercase(), owner.name)
            });
        vec![
            name_cell(&self.metadata),
            controller
                .into_iter()
                .next()
                .unwrap_or_else(|| "<none>".to_owned())
                .into(),
            self.revision.unwrap_or(0).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

/// Data of no known type as Go shows it.
fn unknown(data: &Value) -> GoSyntax {
    let bytes: Vec<String> = data
        .to_string()
        .bytes()
        .map(|byte| format!("{byte:#x}"))
        .collect();
    GoSyntax(format!(
        "runtime.Unknown{{TypeMeta:runtime.TypeMeta{{APIVersion:\"\", Kind:\"\"}}, Raw:[]uint8{{{}}}, \
         ContentEncoding:\"\", ContentType:\"application/json\"}}",
        bytes.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn revision(value: Value) -> ControllerRevision {
        serde_json::from_value(value).expect("a revision")
    }

    #[test]
    fn data_is_an_object_that_stays() {
        let old = revision(json!({"data": {"a": 1}, "revision": 1}));
        let mut errors = Errors::new();
        revision(json!({"data": {"a": 1}, "revision": 2})).validate_update(&old, &mut errors);
        assert!(errors.is_empty());
        revision(json!({"data": {"a": 2}, "revision": -1})).validate_update(&old, &mut errors);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "revision: Invalid value: -1: must be greater than or equal to 0",
                "data: Invalid value: runtime.Unknown{TypeMeta:runtime.TypeMeta{APIVersion:\"\", Kind:\"\"}, \
                 Raw:[]uint8{0x7b, 0x22, 0x61, 0x22, 0x3a, 0x32, 0x7d}, ContentEncoding:\"\", \
                 ContentType:\"application/json\"}: field is immutable",
            ]
        );
    }

    #[test]
    fn the_row_names_the_controller() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "1", "controller": true});
        let revision =
            revision(json!({"metadata": {"name": "web-1", "ownerReferences": [owner]}, "revision": 3}));
        let row = revision.row(Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[..3],
            [json!("web-1"), json!("statefulset.apps/web"), json!(3)]
        );
    }
}
