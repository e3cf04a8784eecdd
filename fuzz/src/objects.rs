//! Objects of all kinds, as JSON and as protobuf, and what a kind's own logic makes of them.

use jiff::Timestamp;
use serde_json::Value;
use stead_api::error::Errors;
use stead_api::registry::Kind;
use stead_api::table::{self, Include};
use stead_api::{meta, schema, selector};

use crate::{kind, split_line};

/// A line that names a kind, then an object as JSON.
pub fn objects(input: &[u8]) {
    let (line, json) = split_line(input);
    let kind = kind(line);
    if let Ok(decoded) = schema::decode_bytes(schema::builtin(), kind.type_id(), json) {
        check(kind, decoded.value);
    }
    let _ = stead_api::json::syntax_error(json);
}

/// A line that names a kind, then an object as protobuf, in its envelope or without.
pub fn protobuf(input: &[u8]) {
    let (line, message) = split_line(input);
    let kind = kind(line);
    let message = schema::open_envelope(message).map_or(message, |envelope| envelope.raw);
    let Ok(object) = schema::from_protobuf(schema::builtin(), kind.type_id(), message) else {
        return;
    };
    if let Ok(decoded) = schema::decode_value(schema::builtin(), kind.type_id(), object) {
        check(kind, decoded.value);
    }
}

/// What must hold of an object that was read.
fn check(kind: &'static Kind, object: Value) {
    let text = object.to_string();
    let again = schema::decode_bytes(schema::builtin(), kind.type_id(), text.as_bytes());
    let again = again.unwrap_or_else(|error| panic!("what was read cannot be read again: {error}\n{text}"));
    assert_eq!(again.value, object, "it reads otherwise");
    assert_eq!(
        again.strict,
        Vec::<String>::new(),
        "fields that are not of the kind"
    );
    let logic = &kind.logic;
    let mut object = object;
    // As the server does, which has refused any others.
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    (logic.set_defaults)(&mut object).expect("it is of its kind");
    schema::normalize(schema::builtin(), kind.type_id(), &mut object);
    let mut twice = object.clone();
    (logic.set_defaults)(&mut twice).expect("it is of its kind");
    schema::normalize(schema::builtin(), kind.type_id(), &mut twice);
    assert_eq!(twice, object, "defaults of what has them");

    let old = object.clone();
    let mut errors = Errors::new();
    meta::validate(&object, kind.namespaced, kind.name_rule, &mut errors);
    meta::validate_update(&object, &old, &mut errors);
    (logic.validate)(&object, &mut errors).expect("it is of its kind");
    (logic.validate_update)(&object, &old, &mut errors).expect("it is of its kind");
    (logic.validate_status_update)(&object, &old, &mut errors).expect("it is of its kind");
    (logic.warnings)(&object, Some(&old)).expect("it is of its kind");
    let row = (logic.row)(&object, Timestamp::UNIX_EPOCH).expect("it is of its kind");
    assert_eq!(row.len(), kind.columns.len(), "the cells of a row");
    table::table(
        kind,
        [&object],
        Value::Null,
        Include::Metadata,
        Timestamp::UNIX_EPOCH,
    )
    .expect("it is of its kind");
    for (field, _) in kind.selectable {
        assert!(kind.field(&object, field).is_some(), "{field}");
    }
    selector::Selector::everything().matches(meta::labels(&object));
    (logic.prepare_for_status_update)(&mut twice, &old).expect("it is of its kind");
    (logic.prepare_for_update)(&mut twice, &old).expect("it is of its kind");
    (logic.prepare_for_create)(&mut object).expect("it is of its kind");
    if let Some(stored) = kind.stored_as {
        (stored.from_stored)((stored.to_stored)(object));
    }
}
