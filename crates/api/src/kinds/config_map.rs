//! ConfigMap (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::error::{Errors, Path};
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Kind};
use crate::table::age;

/// The most that a ConfigMap's or Secret's data may hold, in bytes.
pub(super) const MAX_DATA_BYTES: usize = 1024 * 1024;

/// Why no part of an immutable ConfigMap or Secret can change.
pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub(super) static KIND: Kind = Kind {
    short_names: &["cm"],
    columns: &[Column::NAME, Column::new("Data", "number of keys"), Column::AGE],
    ..Kind::new(
        ("", "v1", "ConfigMap"),
        ("configmaps", "configmap"),
        "io.k8s.api.core.v1.ConfigMap",
        Logic::of::<ConfigMap>(),
    )
};

impl ApiObject for ConfigMap {
    fn validate(&self, errors: &mut Errors) {
        let (data, binary) = (Path::new("data"), Path::new("binaryData"));
        let mut total = 0;
        for (key, value) in self.data.iter().flatten() {
            errors.invalid_each(&data.key(key), key, names::config_key(key));
            if self
                .binary_data
                .as_ref()
                .is_some_and(|binary| binary.contains_key(key))
            {
                errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
            }
            total += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            errors.invalid_each(&binary.key(key), key, names::config_key(key));
            total += value.0.len();
        }
        if total > MAX_DATA_BYTES {
            errors.too_long(&Path::root(), MAX_DATA_BYTES);
        }
    }

    fn validate_update(&self, old: &ConfigMap, errors: &mut Errors) {
        if old.immutable == Some(true) {
            if self.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), IMMUTABLE);
            }
            if self.data != old.data {
                errors.forbidden(&Path::new("data"), IMMUTABLE);
            }
            if self.binary_data != old.binary_data {
                errors.forbidden(&Path::new("binaryData"), IMMUTABLE);
            }
        }
        self.validate(errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, |data| data.len())
            + self.binary_data.as_ref().map_or(0, |data| data.len());
        vec![
            self.metadata.name.clone().unwrap_or_default().into(),
            keys.into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}
