//! LimitRange (core/v1): what containers, pods and claims of a namespace may ask for. See "Limit
//! Ranges".

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde_json::Value;

use super::name_cell;
use super::resources::{amount, validate_kind_name, validate_named};
use crate::error::{Errors, Path};
use crate::go;
use crate::object::{ApiObject, Logic};
use crate::quantity::Quantity;
use crate::registry::{Column, Kind, MetadataCheck};

pub(super) static KIND: Kind = Kind {
    short_names: &["limits"],
    update_metadata: &[MetadataCheck::Create, MetadataCheck::Create],
    columns: &[
        Column::NAME,
        Column {
            ty: "date",
            ..Column::new("Created At", "when it was created")
        },
    ],
    ..Kind::new(
        ("", "v1", "LimitRange"),
        ("limitranges", "limitrange"),
        "io.k8s.api.core.v1.LimitRange",
        Logic::of::<LimitRange>(),
    )
};

type List = BTreeMap<String, Written>;

const CONTAINER: &str = "Container";
const POD: &str = "Pod";
const CLAIM: &str = "PersistentVolumeClaim";

impl ApiObject for LimitRange {
    fn set_defaults(&mut self) {
        for item in self.spec.iter_mut().flat_map(|spec| &mut spec.limits) {
            if item.type_ == CONTAINER {
                set_container_defaults(item);
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec").child("limits");
        let mut types = BTreeSet::new();
        let limits = self.spec.as_ref().map_or(&[][..], |spec| &spec.limits);
        for (at, item) in limits.iter().enumerate() {
            let path = path.index(at);
            validate_kind_name(&item.type_, &[POD, CONTAINER, CLAIM], &path.child("type"), errors);
            if !types.insert(item.type_.as_str()) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
            validate_item(item, &path, errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let created = self.metadata.creation_timestamp.as_ref();
        vec![
            name_cell(&self.metadata),
            created.map_or(Value::Null, |time| crate::time::rfc3339(time.0).into()),
        ]
    }
}

/// A container that says nothing gets the most there may be, and asks for as much, or for the least.
fn set_container_defaults(item: &mut LimitRangeItem) {
    let default = item.default.get_or_insert_default();
    for (name, most) in item.max.iter().flatten() {
        default.entry(name.clone()).or_insert_with(|| most.clone());
    }
    let request = item.default_request.get_or_insert_default();
    for (name, limit) in item.default.iter().flatten() {
        request.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    for (name, least) in item.min.iter().flatten() {
        request.entry(name.clone()).or_insert_with(|| least.clone());
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut Errors) {
    let none = List::new();
    let list = |list: &Option<List>| list.clone().unwrap_or_default();
    let (max, min) = (list(&item.max), list(&item.min));
    let (default, request) = (list(&item.default), list(&item.default_request));
    let ratio = list(&item.max_limit_request_ratio);
    let mut keys = BTreeSet::new();
    for (field, list) in [("max", &max), ("min", &min)] {
        for name in list.keys() {
            validate_named(name, &item.type_, &path.child(field).key(name), errors);
            keys.insert(name.clone());
        }
    }
    let defaults = [("default", &default), ("defaultRequest", &request)];
    if item.type_ == POD {
        for (field, list) in defaults {
            if !list.is_empty() {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
        }
    } else {
        for (field, list) in defaults {
            for name in list.keys() {
                validate_named(name, &item.type_, &path.child(field).key(name), errors);
                keys.insert(name.clone());
            }
        }
    }
    if item.type_ == CLAIM && !max.contains_key("storage") && !min.contains_key("storage") {
        errors.required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    for name in ratio.keys() {
        let path = path.child("maxLimitRequestRatio").key(name);
        validate_named(name, &item.type_, &path, errors);
        keys.insert(name.clone());
    }
    let (default, request) = if item.type_ == POD {
        (&none, &none)
    } else {
        (&default, &request)
    };
    for name in &keys {
        let amounts = Amounts {
            path,
            name,
            max: max.get(name),
            min: min.get(name),
            default: default.get(name),
            request: request.get(name),
            ratio: ratio.get(name),
        };
        amounts.validate(errors);
    }
}

/// What an item says of one resource.
struct Amounts<'a> {
    path: &'a Path,
    name: &'a str,
    max: Option<&'a Written>,
    min: Option<&'a Written>,
    default: Option<&'a Written>,
    request: Option<&'a Written>,
    ratio: Option<&'a Written>,
}

fn is_above(one: &Written, other: &Written) -> bool {
    let difference = amount(one) - amount(other);
    !difference.is_zero() && !difference.is_negative()
}

impl Amounts<'_> {
    fn validate(&self, errors: &mut Errors) {
        let shown = |quantity: &Written| go::syntax("resource.Quantity", quantity);
        let at = |field: &str| self.path.child(field).key(self.name);
        // The value that errors show is one bound, and so is that of the words.
        let mut ordered = |low: Option<&Written>,
                           high: Option<&Written>,
                           field: &str,
                           (low_name, high_name): (&str, &str),
                           shows_low: bool| {
            if let (Some(low), Some(high)) = (low, high)
                && is_above(low, high)
            {
                let why = format!(
                    "{low_name} value {} is greater than {high_name} value {}",
                    low.0, high.0
                );
                errors.invalid(&at(field), &shown(if shows_low { low } else { high }), &why);
            }
        };
        ordered(self.min, self.max, "min", ("min", "max"), true);
        ordered(
            self.min,
            self.request,
            "defaultRequest",
            ("min", "default request"),
            false,
        );
        ordered(
            self.request,
            self.max,
            "defaultRequest",
            ("default request", "max"),
            true,
        );
        ordered(
            self.request,
            self.default,
            "defaultRequest",
            ("default request", "default limit"),
            true,
        );
        ordered(self.min, self.default, "default", ("min", "default"), true);
        ordered(self.default, self.max, "default", ("default", "max"), false);
        let Some(ratio) = self.ratio else { return };
        let path = at("maxLimitRequestRatio");
        if (amount(ratio) - Quantity::thousandths(1000)).is_negative() {
            let why = format!("ratio {} is less than 1", ratio.0);
            errors.invalid(&path, &shown(ratio), &why);
        }
        // No limit can be further from a request than the greatest from the least.
        if let (Some(min), Some(max)) = (self.min, self.max) {
            let (min, max, most) = (
                amount(min).milli() as f64,
                amount(max).milli() as f64,
                amount(ratio).milli() as f64 / 1000.0,
            );
            if min > 0.0 && most > max / min {
                let why = format!("ratio {} is greater than max/min = {:.6}", ratio.0, max / min);
                errors.invalid(&path, &shown(ratio), &why);
            }
        }
        if !super::resources::is_overcommitted(self.name) {
            let why = format!("ratio {} must be 1 for non overcommitable resources", ratio.0);
            if amount(ratio).milli() != 1000 {
                errors.invalid(&path, &shown(ratio), &why);
            }
        }
    }
}
