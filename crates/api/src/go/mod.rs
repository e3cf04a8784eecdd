//! Values as Go prints them.
//!
//! Where a field's error concerns a whole structure, Kubernetes prints the structure as its API
//! server holds it: with `%#v` as the offending value, or, when something may not change, as a diff
//! of before and after (go-cmp's report). Clients have seen these texts for years, so they are kept;
//! the types' Go names and the order of their fields are in `types.txt`. All of this runs only when
//! there is an error to tell.

mod edits;
mod report;
mod syntax;
mod text;
mod tree;
mod types;
mod value;

use serde::Serialize;
use serde_json::Value as Json;

use crate::error::GoSyntax;

/// A value of a type of the table, as `%#v` writes it. A pointer is written as what it points to.
pub(crate) fn syntax(ty: &str, value: &impl Serialize) -> GoSyntax {
    let json = serde_json::to_value(value).unwrap_or_default();
    let ty = types::table().resolve(ty);
    GoSyntax(syntax::write(&value::read(
        types::table(),
        &ty,
        Some(&json),
        &Json::Null,
    )))
}

/// A quantity that is no whole number, as `%#v` writes it when it was given as a decimal fraction.
pub(crate) fn fraction(quantity: &str) -> GoSyntax {
    GoSyntax(syntax::write_amount(&value::fraction(quantity)))
}

/// What differs between two values of a type of the table, as go-cmp's `cmp.Diff` reports it.
pub(crate) fn diff(ty: &str, old: &Json, new: &Json) -> String {
    let ty = types::table().resolve(ty);
    let read = |json| value::read(types::table(), &ty, Some(json), &Json::Null);
    let (old, new) = (read(old), read(new));
    report::report(&tree::compare(types::table(), &ty, Some(&old), Some(&new)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structures_are_written_with_their_zero_fields() {
        let written = |ty: &str, value: Json| syntax(ty, &value).0;
        assert_eq!(
            written("core.ServicePort", json!({"protocol": "TCP", "port": 80})),
            "core.ServicePort{Name:\"\", Protocol:\"TCP\", AppProtocol:(*string)(nil), Port:80, \
             TargetPort:intstr.IntOrString{Type:0, IntVal:0, StrVal:\"\"}, NodePort:0}"
        );
        assert_eq!(
            written(
                "v1.LabelSelector",
                json!({"matchExpressions": [{"key": "app", "operator": "In"}]})
            ),
            "v1.LabelSelector{MatchLabels:map[string]string(nil), \
             MatchExpressions:[]v1.LabelSelectorRequirement{v1.LabelSelectorRequirement{Key:\"app\", \
             Operator:\"In\", Values:[]string(nil)}}}"
        );
        assert_eq!(
            written("map[string]string", json!({"b": "1", "a": "2"})),
            "map[string]string{\"a\":\"2\", \"b\":\"1\"}"
        );
        assert_eq!(
            written("core.ResourceList", json!({"cpu": "1500m"})),
            "core.ResourceList{\"cpu\":resource.Quantity{i:resource.int64Amount{value:1500, scale:-3}, \
             d:resource.infDecAmount{Dec:(*inf.Dec)(nil)}, s:\"1500m\", Format:\"DecimalSI\"}}"
        );
    }

    #[test]
    fn a_diff_shows_the_changed_field_between_its_neighbours() {
        let claim = |class: &str| {
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}},
                   "storageClassName": class, "volumeMode": "Filesystem"})
        };
        let expected = "  core.PersistentVolumeClaimSpec{\n  \t... // 2 identical fields\n  \tResources:        \
             {Requests: {s\"storage\": {i: {...}, s: \"10Mi\", Format: \"BinarySI\"}}},\n  \tVolumeName:       \"\",\n\
             - \tStorageClassName: &\"none\",\n+ \tStorageClassName: &\"other\",\n  \tVolumeMode:       &\"Filesystem\",\n  \
             \tDataSource:       nil,\n  \tDataSourceRef:    nil,\n  }\n";
        let shown = diff("core.PersistentVolumeClaimSpec", &claim("none"), &claim("other"));
        assert_eq!(shown.replace('\u{a0}', " "), expected);
    }
}
