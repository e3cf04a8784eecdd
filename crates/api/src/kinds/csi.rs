//! What storage drivers say of themselves (storage.k8s.io/v1): CSIDriver, CSINode and
//! CSIStorageCapacity. See "Volumes: CSI" and "Storage Capacity".

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSIDriverSpec, CSINode, CSINodeDriver, CSIStorageCapacity, TokenRequest,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;
use serde_json::Value;

use super::resources::validate_basic;
use super::volume_source::validate_driver_name;
use super::{FIELD_IMMUTABLE, name_cell, same, text};
use crate::error::{Errors, Path};
use crate::go;
use crate::names;
use crate::object::{ApiObject, Logic};
use crate::registry::{Column, Generation, Kind, MetadataCheck};
use crate::selector::validate_label_selector;
use crate::table::age;

const GROUP: &str = "storage.k8s.io";

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column {
        ty: "boolean",
        ..Column::new(name, description)
    }
}

pub(super) static DRIVER: Kind = Kind {
    namespaced: false,
    unconditional_update: false,
    generation: Generation::Spec,
    update_metadata: &[MetadataCheck::Update],
    columns: &[
        Column::NAME,
        boolean("AttachRequired", "whether volumes must be attached first"),
        boolean("PodInfoOnMount", "whether it is told of the pod"),
        boolean("StorageCapacity", "whether it says how much room there is"),
        Column::new("TokenRequests", "for whom it is given tokens"),
        boolean("RequiresRepublish", "whether it is asked again and again"),
        Column::new("Modes", "how long its volumes live"),
        Column::AGE,
    ],
    caveat: Some("storage drivers are not called here yet: the object is kept, and nothing comes of it"),
    ..Kind::new(
        (GROUP, "v1", "CSIDriver"),
        ("csidrivers", "csidriver"),
        "io.k8s.api.storage.v1.CSIDriver",
        Logic::of::<CSIDriver>(),
    )
};

pub(super) static NODE: Kind = Kind {
    namespaced: false,
    unconditional_update: false,
    update_metadata: &[MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column::integer("Drivers", "how many drivers there are on it"),
        Column::AGE,
    ],
    ..Kind::new(
        (GROUP, "v1", "CSINode"),
        ("csinodes", "csinode"),
        "io.k8s.api.storage.v1.CSINode",
        Logic::of::<CSINode>(),
    )
};

pub(super) static CAPACITY: Kind = Kind {
    unconditional_update: false,
    update_metadata: &[MetadataCheck::Update],
    columns: &[
        Column::NAME,
        Column {
            ty: "date",
            ..Column::new("Created At", "when it was created")
        },
    ],
    ..Kind::new(
        (GROUP, "v1", "CSIStorageCapacity"),
        ("csistoragecapacities", "csistoragecapacity"),
        "io.k8s.api.storage.v1.CSIStorageCapacity",
        Logic::of::<CSIStorageCapacity>(),
    )
};

const MODES: [&str; 2] = ["Ephemeral", "Persistent"];
const GROUP_POLICIES: [&str; 3] = ["File", "None", "ReadWriteOnceWithFSType"];
/// Tokens live for at least ten minutes, and at most 2^32 seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
const MAX_NODE_ID: usize = 256;

impl ApiObject for CSIDriver {
    fn set_defaults(&mut self) {
        let spec = &mut self.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.fs_group_policy
            .get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        validate_driver_name(name, &Path::new("metadata").child("name"), errors);
        validate_driver(&self.spec, errors);
    }

    fn validate_update(&self, old: &CSIDriver, errors: &mut Errors) {
        self.validate(errors);
        let path = Path::new("spec");
        let (new, old) = (&self.spec, &old.spec);
        let shown = |value: &Option<bool>| go::syntax("*bool", value);
        for (field, new, old) in [("attachRequired", &new.attach_required, &old.attach_required)] {
            if new != old {
                errors.invalid(&path.child(field), &shown(new), FIELD_IMMUTABLE);
            }
        }
        let modes = |spec: &CSIDriverSpec| -> BTreeSet<String> {
            spec.volume_lifecycle_modes.iter().flatten().cloned().collect()
        };
        if modes(new) != modes(old) {
            let shown = go::syntax("[]storage.VolumeLifecycleMode", &new.volume_lifecycle_modes);
            errors.invalid(&path.child("volumeLifecycleModes"), &shown, FIELD_IMMUTABLE);
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let audiences: Vec<&str> = spec
            .token_requests
            .iter()
            .flatten()
            .map(|request| request.audience.as_str())
            .collect();
        let unset = || "<unset>".to_owned();
        let list = |list: Vec<&str>| {
            if list.is_empty() {
                "<none>".to_owned()
            } else {
                list.join(",")
            }
        };
        let modes: Vec<&str> = spec
            .volume_lifecycle_modes
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        vec![
            name_cell(&self.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            if spec.token_requests.is_none() {
                unset()
            } else {
                list(audiences)
            }
            .into(),
            spec.requires_republish.unwrap_or(false).into(),
            list(modes).into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_driver(spec: &CSIDriverSpec, errors: &mut Errors) {
    let path = Path::new("spec");
    for (field, given) in [
        ("attachRequired", spec.attach_required.is_some()),
        ("podInfoOnMount", spec.pod_info_on_mount.is_some()),
        ("storageCapacity", spec.storage_capacity.is_some()),
    ] {
        if !given {
            errors.required(&path.child(field), "");
        }
    }
    errors.one_of(
        &path.child("fsGroupPolicy"),
        text(&spec.fs_group_policy),
        &GROUP_POLICIES,
    );
    let mut audiences = BTreeSet::new();
    for (at, request) in spec.token_requests.iter().flatten().enumerate() {
        validate_token(request, &path.child("tokenRequests").index(at), errors);
        if !audiences.insert(request.audience.as_str()) {
            errors.duplicate(
                &path.child("tokenRequests").index(at).child("audience"),
                &request.audience,
            );
        }
    }
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        errors.one_of(&path.child("volumeLifecycleModes"), mode, &MODES);
    }
    if spec.se_linux_mount.is_none() {
        errors.required(&path.child("seLinuxMount"), "");
    }
    if let Some(seconds) = spec
        .node_allocatable_update_period_seconds
        .filter(|seconds| *seconds < 10)
    {
        errors.invalid(
            &path.child("nodeAllocatableUpdatePeriodSeconds"),
            &seconds,
            "must be greater than or equal to 10 seconds",
        );
    }
}

fn validate_token(request: &TokenRequest, path: &Path, errors: &mut Errors) {
    let Some(seconds) = request.expiration_seconds else {
        return;
    };
    let path = path.child("expirationSeconds");
    if seconds < TOKEN_SECONDS.0 {
        errors.invalid(&path, &seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > TOKEN_SECONDS.1 {
        errors.invalid(
            &path,
            &seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
}

impl ApiObject for CSINode {
    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec").child("drivers");
        let mut names = BTreeSet::new();
        for (at, driver) in self.spec.drivers.iter().enumerate() {
            let path = path.index(at);
            validate_node_driver(driver, &path, errors);
            if !names.insert(driver.name.as_str()) {
                errors.duplicate(&path.child("name"), &driver.name);
            }
        }
    }

    fn validate_update(&self, old: &CSINode, errors: &mut Errors) {
        self.validate(errors);
        let path = Path::new("spec").child("drivers");
        for before in &old.spec.drivers {
            for driver in self
                .spec
                .drivers
                .iter()
                .filter(|driver| driver.name == before.name)
            {
                // How many volumes there may be is all that can change.
                let unchanged = CSINodeDriver {
                    allocatable: before.allocatable.clone(),
                    ..driver.clone()
                };
                if !same(&unchanged, before) {
                    errors.invalid(
                        &path,
                        &go::syntax("storage.CSINodeDriver", driver),
                        FIELD_IMMUTABLE,
                    );
                }
            }
        }
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(&self.metadata),
            self.spec.drivers.len().into(),
            age(self.metadata.creation_timestamp.as_ref(), now),
        ]
    }
}

fn validate_node_driver(driver: &CSINodeDriver, path: &Path, errors: &mut Errors) {
    validate_driver_name(&driver.name, &path.child("name"), errors);
    let id = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.required(&id, "");
    } else if driver.node_id.len() > MAX_NODE_ID {
        let why = format!("must be {MAX_NODE_ID} characters or less");
        errors.invalid(&id, &driver.node_id, &why);
    }
    let count = driver
        .allocatable
        .as_ref()
        .and_then(|allocatable| allocatable.count);
    if let Some(count) = count {
        errors.nonnegative(&path.child("allocatable").child("count"), count.into());
    }
    let path = path.child("topologyKeys");
    let mut keys = BTreeSet::new();
    for (at, key) in driver.topology_keys.iter().flatten().enumerate() {
        if key.is_empty() {
            errors.required(&path, "");
        }
        errors.invalid_each(&path, key, names::qualified_name(key));
        if !keys.insert(key) {
            errors.duplicate(&path.index(at), key);
        }
    }
}

impl ApiObject for CSIStorageCapacity {
    fn validate(&self, errors: &mut Errors) {
        let class = Path::new("storageClassName");
        errors.invalid_each(
            &class,
            &self.storage_class_name,
            names::dns_subdomain(&self.storage_class_name),
        );
        if let Some(topology) = &self.node_topology {
            validate_label_selector(topology, &Path::new("nodeTopology"), errors);
        }
        let sizes: [(&str, &Option<Written>); 2] = [
            ("capacity", &self.capacity),
            ("maximumVolumeSize", &self.maximum_volume_size),
        ];
        for (field, size) in sizes {
            if let Some(size) = size {
                validate_basic(size, &Path::new(field), errors);
            }
        }
    }

    fn validate_update(&self, old: &CSIStorageCapacity, errors: &mut Errors) {
        self.validate(errors);
        if !same(&self.node_topology, &old.node_topology) {
            let shown = go::syntax("*v1.LabelSelector", &self.node_topology);
            errors.invalid(&Path::new("nodeTopology"), &shown, FIELD_IMMUTABLE);
        }
        if self.storage_class_name != old.storage_class_name {
            errors.invalid(
                &Path::new("storageClassName"),
                &self.storage_class_name,
                FIELD_IMMUTABLE,
            );
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
