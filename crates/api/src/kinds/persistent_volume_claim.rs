//! PersistentVolumeClaim (core/v1). Its spec is also that of templates.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde_json::{Value, json};

use super::resources::{amount, is_native, round_up, validate_amount, validate_basic, validate_positive};
use super::{FIELD_IMMUTABLE, name_cell, same, text};
use crate::error::{Errors, GoSyntax, Path, quote};
use crate::object::{ApiObject, Logic};
use crate::quantity::Quantity;
use crate::registry::{Column, Kind, MetadataCheck, Subresource};
use crate::selector::check_label_selector;
use crate::table::age;
use crate::{go, names};

pub(super) static KIND: Kind = Kind {
    short_names: &["pvc"],
    subresources: &[Subresource::status("PersistentVolumeClaim")],
    update_metadata: &[
        MetadataCheck::Create,
        MetadataCheck::Update,
        MetadataCheck::Create,
    ],
    columns: &[
        Column::NAME,
        Column::new("Status", "whether it has a volume"),
        Column::new("Volume", "its volume"),
        Column::new("Capacity", "size of the volume"),
        Column::new("Access Modes", "who can use the volume, and how"),
        Column::new("StorageClass", "class of the volume"),
        Column::AGE,
        Column::wide("VolumeMode", "file system or block device"),
    ],
    ..Kind::new(
        ("", "v1", "PersistentVolumeClaim"),
        ("persistentvolumeclaims", "persistentvolumeclaim"),
        "io.k8s.api.core.v1.PersistentVolumeClaim",
        Logic::of::<PersistentVolumeClaim>(),
    )
};

/// The annotation that named the class before there was a field.
pub(super) const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Who can use a volume, and how.
pub(super) const ACCESS_MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// What a volume appears as.
pub(super) const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const RESIZE_STATES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];
const IMMUTABLE: &str = "spec is immutable after creation except resources.requests for bound claims";
const STORAGE: &str = "storage";

/// Fills in what a claim's spec does not say.
pub(crate) fn set_spec_defaults(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    if let Some(resources) = &mut spec.resources {
        round_up(&mut resources.limits);
        round_up(&mut resources.requests);
    }
}

/// The defaults of a claim, also of a StatefulSet's templates.
pub(crate) fn set_claim_defaults(claim: &mut PersistentVolumeClaim) {
    super::pod::fill(&mut claim.status.get_or_insert_default().phase, "Pending");
    set_spec_defaults(claim.spec.get_or_insert_default());
    if let Some(status) = &mut claim.status {
        round_up(&mut status.capacity);
        round_up(&mut status.allocated_resources);
    }
}

pub(super) fn spec_of(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimSpec {
    claim.spec.clone().unwrap_or_default()
}

fn storage(list: Option<&super::resources::ResourceList>) -> Quantity {
    list.and_then(|list| list.get(STORAGE))
        .map_or(Quantity::ZERO, amount)
}

/// How much a claim asks for.
pub(super) fn requested(spec: &PersistentVolumeClaimSpec) -> Quantity {
    storage(
        spec.resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref()),
    )
}

impl ApiObject for PersistentVolumeClaim {
    fn set_defaults(&mut self) {
        set_claim_defaults(self);
    }

    fn prepare_for_create(&mut self) {
        self.status = Some(PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..PersistentVolumeClaimStatus::default()
        });
        prepare_sources(self.spec.get_or_insert_default(), None);
    }

    fn prepare_for_update(&mut self, old: &PersistentVolumeClaim) {
        prepare_sources(self.spec.get_or_insert_default(), old.spec.as_ref());
    }

    fn prepare_for_status_update(&mut self, old: &PersistentVolumeClaim) {
        if old
            .status
            .as_ref()
            .is_none_or(|status| status.health_status.is_none())
            && let Some(status) = &mut self.status
        {
            status.health_status = None;
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec_with(&spec_of(self), &Allowed::default(), &Path::new("spec"), errors);
    }

    fn validate_update(&self, old: &PersistentVolumeClaim, errors: &mut Errors) {
        let (spec, mut old_spec) = (spec_of(self), spec_of(old));
        let allowed = Allowed::after(&old_spec);
        // Kubernetes checks the spec once for the update and once as such.
        validate_spec_with(&spec, &allowed, &Path::new("spec"), errors);
        validate_spec_with(&spec, &allowed, &Path::new("spec"), errors);
        normalize_sources(&mut old_spec);
        validate_change(self, old, &old_spec, errors);
    }

    fn validate_status_update(&self, _old: &PersistentVolumeClaim, errors: &mut Errors) {
        let modes = self.spec.as_ref().and_then(|spec| spec.access_modes.as_ref());
        if modes.is_none_or(Vec::is_empty) {
            errors.required(&Path::new("Spec").child("accessModes"), "");
        }
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        for (name, quantity) in status.capacity.iter().flatten() {
            validate_basic(quantity, &path.child("capacity").key(name), errors);
        }
        let at = path.child("allocatedResourceStatus");
        for (name, state) in status.allocated_resource_statuses.iter().flatten() {
            validate_resource_name(name, &at, errors);
            if !RESIZE_STATES.contains(&state.as_str()) {
                errors.not_supported(&at, name, &RESIZE_STATES);
            }
        }
        let at = path.child("allocatedResources");
        for (name, quantity) in status.allocated_resources.iter().flatten() {
            if validate_resource_name(name, &at, errors) {
                let before = errors.len();
                validate_basic(quantity, &at.key(name), errors);
                if errors.len() == before {
                    validate_amount(STORAGE, quantity, &at.key(name), errors);
                }
            }
        }
    }

    fn warnings(&self, _old: Option<&PersistentVolumeClaim>) -> Vec<String> {
        let mut warnings = Vec::new();
        if self
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|all| all.contains_key(CLASS_ANNOTATION))
        {
            let path = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
            warnings.push(format!(
                "{path}: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        warnings.extend(spec_warnings(&spec_of(self), &Path::new("spec")));
        warnings
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (spec_of(self), self.status.clone().unwrap_or_default());
        let deleting = self.metadata.deletion_timestamp.is_some();
        let is_bound = !text(&spec.volume_name).is_empty();
        let capacity = status.capacity.as_ref().and_then(|list| list.get(STORAGE));
        let modes = status.access_modes.as_deref().unwrap_or_default();
        vec![
            name_cell(&self.metadata),
            if deleting {
                "Terminating"
            } else {
                text(&status.phase)
            }
            .into(),
            text(&spec.volume_name).into(),
            if is_bound {
                capacity.map_or("0", |capacity| &capacity.0)
            } else {
                ""
            }
            .into(),
            if is_bound {
                short_modes(modes)
            } else {
                String::new()
            }
            .into(),
            class_of(self).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }
}

/// The class that a claim names, in the annotation or the field; empty for none.
fn class_of(claim: &PersistentVolumeClaim) -> String {
    let annotation = claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(CLASS_ANNOTATION));
    let field = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.as_ref());
    annotation.or(field).cloned().unwrap_or_default()
}

/// Modes as cells show them, e.g. `RWO,ROX`.
pub(super) fn short_modes(modes: &[String]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let short = known
        .iter()
        .filter(|(mode, _)| modes.iter().any(|listed| listed == mode));
    short.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// What is let through because it is there already.
#[derive(Default)]
struct Allowed {
    invalid_selector_values: bool,
    any_source_group: bool,
}

impl Allowed {
    fn after(old: &PersistentVolumeClaimSpec) -> Allowed {
        let mut errors = Errors::new();
        if let Some(selector) = &old.selector {
            check_label_selector(selector, false, &Path::root(), &mut errors);
        }
        let source = old
            .data_source
            .as_ref()
            .and_then(|source| source.api_group.as_ref());
        let source_ref = old
            .data_source_ref
            .as_ref()
            .and_then(|source| source.api_group.as_ref());
        Allowed {
            invalid_selector_values: !errors.is_empty(),
            any_source_group: source.is_some() || source_ref.is_some(),
        }
    }
}

/// Checks a spec, as in the template of an ephemeral volume. Values in the selector that no label
/// can have may be let through.
pub(crate) fn validate_spec(
    spec: &PersistentVolumeClaimSpec,
    invalid_selector_values: bool,
    path: &Path,
    errors: &mut Errors,
) {
    validate_spec_with(
        spec,
        &Allowed {
            invalid_selector_values,
            any_source_group: false,
        },
        path,
        errors,
    );
}

fn validate_spec_with(spec: &PersistentVolumeClaimSpec, allowed: &Allowed, path: &Path, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        check_label_selector(
            selector,
            allowed.invalid_selector_values,
            &path.child("selector"),
            errors,
        );
    }
    validate_modes(modes, &path.child("accessModes"), errors);
    let at = path.child("resources").key(STORAGE);
    let requests = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    match requests.and_then(|requests| requests.get(STORAGE)) {
        None => errors.required(&at, ""),
        Some(quantity) => {
            let before = errors.len();
            validate_positive(quantity, &at, errors);
            if errors.len() == before {
                validate_amount(STORAGE, quantity, &at, errors);
            }
        }
    }
    validate_class(&spec.storage_class_name, &path.child("storageClassName"), errors);
    if let Some(mode) = &spec.volume_mode {
        errors.one_of(&path.child("volumeMode"), mode, &VOLUME_MODES);
    }
    validate_sources(spec, allowed, path, errors);
    validate_class(
        &spec.volume_attributes_class_name,
        &path.child("volumeAttributesClassName"),
        errors,
    );
}

fn validate_class(name: &Option<String>, path: &Path, errors: &mut Errors) {
    if !text(name).is_empty() {
        errors.invalid_each(path, text(name), names::dns_subdomain(text(name)));
    }
}

/// Checks access modes. One pod alone and others cannot go together.
pub(super) fn validate_modes(modes: &[String], path: &Path, errors: &mut Errors) {
    for mode in modes {
        errors.one_of(path, mode, &ACCESS_MODES);
    }
    let is_exclusive = |mode: &&String| *mode == "ReadWriteOncePod";
    let mut known = modes.iter().filter(|mode| ACCESS_MODES.contains(&mode.as_str()));
    if modes.iter().any(|mode| is_exclusive(&mode)) && known.any(|mode| !is_exclusive(&mode)) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_sources(spec: &PersistentVolumeClaimSpec, allowed: &Allowed, path: &Path, errors: &mut Errors) {
    let mut validate = |field: &str, kind: &str, name: &str, group: &Option<String>| {
        let path = path.child(field);
        errors.present(&path.child("name"), name);
        errors.present(&path.child("kind"), kind);
        if text(group).is_empty() && kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&path, kind, why);
        }
        if !text(group).is_empty() && !allowed.any_source_group {
            errors.invalid_each(
                &path.child("apiGroup"),
                text(group),
                names::dns_subdomain(text(group)),
            );
        }
    };
    if let Some(source) = &spec.data_source {
        validate("dataSource", &source.kind, &source.name, &source.api_group);
    }
    let Some(source_ref) = &spec.data_source_ref else {
        return;
    };
    validate(
        "dataSourceRef",
        &source_ref.kind,
        &source_ref.name,
        &source_ref.api_group,
    );
    let namespace = text(&source_ref.namespace);
    if !namespace.is_empty() {
        let path = path.child("dataSourceRef").child("namespace");
        errors.invalid_each(&path, namespace, names::dns_label(namespace));
    }
    let Some(source) = &spec.data_source else { return };
    // Kubernetes shows the field's path as the value, which tells no more than this.
    let shown = GoSyntax(
        "field.Path{name:\"dataSource\", index:\"\", parent:(*field.Path)(0xc000000000)}".to_owned(),
    );
    if !namespace.is_empty() {
        errors.invalid(
            path,
            &shown,
            "may not be specified when dataSourceRef.namespace is specified",
        );
    } else if (&source.kind, &source.name, &source.api_group)
        != (&source_ref.kind, &source_ref.name, &source_ref.api_group)
    {
        errors.invalid(path, &shown, "must match dataSourceRef");
    }
}

/// Sources in other namespaces are off (alpha), and those of other kinds than claims and snapshots
/// are dropped where the older field names them.
fn prepare_sources(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let is_elsewhere = spec
        .data_source_ref
        .as_ref()
        .is_some_and(|source| !text(&source.namespace).is_empty());
    if is_elsewhere && old.is_none_or(|old| old.data_source_ref.is_none()) {
        spec.data_source_ref = None;
    }
    let had_source = old.is_some_and(|old| old.data_source.is_some() || old.data_source_ref.is_some());
    if !had_source && spec.data_source_ref.is_none() {
        spec.data_source.take_if(|source| {
            !matches!(
                (text(&source.api_group), source.kind.as_str()),
                ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
            )
        });
    }
    normalize_sources(spec);
}

/// Of the two fields for the source, each stands for the other.
fn normalize_sources(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if text(&source.namespace).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => {}
    }
}

fn validate_change(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    old_spec: &PersistentVolumeClaimSpec,
    errors: &mut Errors,
) {
    let spec = spec_of(new);
    let (mut rest, mut before) = (spec.clone(), old_spec.clone());
    if text(&before.volume_name).is_empty() {
        before.volume_name.clone_from(&rest.volume_name);
    }
    put_class_back(&mut rest, &before, new, old, errors);
    let status = |claim: &PersistentVolumeClaim| claim.status.clone().unwrap_or_default();
    // A bound claim can grow, and change its volume's attributes.
    if text(&status(new).phase) == "Bound" {
        take_growth_back(&mut rest, &before);
    }
    let path = Path::new("spec");
    if !same(&rest, &before) {
        let difference = go::diff("core.PersistentVolumeClaimSpec", &json!(before), &json!(rest));
        errors.forbidden(&path, &format!("{IMMUTABLE}\n{difference}"));
    }
    let shrinks = (requested(&spec) - requested(old_spec)).is_negative();
    // An expansion that failed can be taken back, since 1.34.
    let capacity = storage(status(old).capacity.as_ref());
    let exceeds = requested(&spec) - capacity;
    if shrinks && (exceeds.is_negative() || exceeds.is_zero()) {
        let path = path.child("resources").child("requests").child(STORAGE);
        errors.forbidden(&path, "field can not be less than status.capacity");
    }
    if spec.volume_mode != old_spec.volume_mode {
        errors.invalid(&Path::new("volumeMode"), text(&spec.volume_mode), FIELD_IMMUTABLE);
    }
    let (class, old_class) = (
        &spec.volume_attributes_class_name,
        &old_spec.volume_attributes_class_name,
    );
    if class != old_class && status(old).current_volume_attributes_class_name.is_some() {
        let to = match class.as_deref() {
            None => "nil",
            Some("") => "empty string",
            Some(_) => return,
        };
        let why =
            format!("update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden(&path.child("volumeAttributesClassName"), &why);
    }
}

/// Puts back what can change of a claim that is bound: its size, and its volume's attributes.
pub(super) fn take_growth_back(spec: &mut PersistentVolumeClaimSpec, before: &PersistentVolumeClaimSpec) {
    let resources = spec.resources.as_mut();
    if let Some(requests) = resources.and_then(|resources| resources.requests.as_mut()) {
        match storage_of(before) {
            Some(was) => requests.insert(STORAGE.to_owned(), was.clone()),
            None => requests.remove(STORAGE),
        };
    }
    spec.volume_attributes_class_name
        .clone_from(&before.volume_attributes_class_name);
}

/// How much a claim asks for, as it is written.
pub(super) fn storage_of(spec: &PersistentVolumeClaimSpec) -> Option<&Written> {
    spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)
}

/// The class can move from the annotation to the field, and be given to a claim without one.
fn put_class_back(
    rest: &mut PersistentVolumeClaimSpec,
    before: &PersistentVolumeClaimSpec,
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    errors: &mut Errors,
) {
    let annotation = |claim: &PersistentVolumeClaim| {
        claim
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(CLASS_ANNOTATION))
            .cloned()
    };
    let (new_annotation, old_annotation) = (annotation(new), annotation(old));
    let moves = old_annotation.is_some()
        && (new_annotation.is_none() || new_annotation == old_annotation)
        && before.storage_class_name.is_none()
        && rest.storage_class_name == old_annotation;
    if moves {
        rest.storage_class_name = None;
        return;
    }
    if new_annotation.clone().unwrap_or_default() != old_annotation.clone().unwrap_or_default() {
        let path = Path::new("metadata").child("annotations").child(CLASS_ANNOTATION);
        errors.invalid(&path, text(&new_annotation), FIELD_IMMUTABLE);
    }
    let is_first = before.storage_class_name.is_none() && rest.storage_class_name.is_some();
    if is_first && (old_annotation.is_none() || rest.storage_class_name == old_annotation) {
        rest.storage_class_name = None;
    }
}

fn validate_resource_name(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let objections = names::qualified_name(name);
    let is_named = objections.is_empty();
    errors.invalid_each(path, name, objections);
    if is_named && is_native(name) && name != STORAGE {
        errors.not_supported(path, name, &[STORAGE]);
        return false;
    }
    is_named
}

/// What to warn of in a claim's spec: parts of bytes.
pub(crate) fn spec_warnings(spec: &PersistentVolumeClaimSpec, path: &Path) -> Vec<String> {
    let resources = spec.resources.as_ref();
    let lists = [
        (
            "requests",
            resources.and_then(|resources| resources.requests.as_ref()),
        ),
        (
            "limits",
            resources.and_then(|resources| resources.limits.as_ref()),
        ),
    ];
    let mut warnings = Vec::new();
    for (field, list) in lists {
        if let Some(written) = list.and_then(|list| list.get(STORAGE))
            && amount(written).milli() % 1000 != 0
        {
            let path = path.child("resources").child(field).key(STORAGE);
            let value = quote(&written.0);
            warnings.push(format!(
                "{path}: fractional byte value {value} is invalid, must be an integer"
            ));
        }
    }
    warnings
}
