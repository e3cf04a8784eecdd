use serde_json::json;

use super::*;

fn volume(spec: &Value) -> PersistentVolume {
    let mut volume: PersistentVolume =
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).expect("a volume");
    volume.set_defaults();
    volume
}

fn disk(more: &Value) -> Value {
    let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    spec
}

fn listed(errors: &Errors) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("|")
}

fn on_node(key: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["a"]}]}]}})
}

#[test]
fn a_volume_has_one_source_a_size_and_modes() {
    for (spec, expected) in [
        (disk(&json!({"hostPath": {"path": "/tmp"}})), ""),
        (
            disk(&json!({})),
            "spec: Required value: must specify a volume type",
        ),
        (
            disk(&json!({"hostPath": {"path": "/tmp"}, "nfs": {"server": "a", "path": "/b"}})),
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"hostPath": {"path": "/tmp"}}),
            "spec.accessModes: Required value|spec.capacity: Required value|\
             spec.capacity: Unsupported value: core.ResourceList(nil): supported values: \"storage\"",
        ),
        (
            disk(&json!({"hostPath": {"path": "/tmp"}, "capacity": {"storage": "0"}})),
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
        ),
        (
            disk(&json!({"hostPath": {"path": "/a/.."}, "persistentVolumeReclaimPolicy": "Recycle"})),
            "spec.hostPath.path: Invalid value: \"/a/..\": must not contain '..'|\
             spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
        ),
        (
            disk(&json!({"local": {"path": "/disk"}})),
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ),
        (
            disk(&json!({"local": {"path": "/disk"}, "nodeAffinity": on_node("a")})),
            "",
        ),
        (
            disk(&json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
            "spec.csi.volumeHandle: Required value|spec.csi.nodePublishSecretRef.namespace: Required value",
        ),
    ] {
        let mut errors = Errors::new();
        volume(&spec).validate(&mut errors);
        assert_eq!(listed(&errors), expected, "{spec}");
    }
}

#[test]
fn where_a_volumes_content_is_cannot_change() {
    let old = volume(&disk(
        &json!({"hostPath": {"path": "/tmp"}, "nodeAffinity": on_node("beta.kubernetes.io/os")}),
    ));
    for (more, fields) in [
        (json!({}), &[][..]),
        (
            json!({"capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Delete"}),
            &[],
        ),
        (json!({"nodeAffinity": on_node("kubernetes.io/os")}), &[]),
        (json!({"nodeAffinity": on_node("b")}), &["nodeAffinity"]),
        (json!({"nodeAffinity": null}), &["nodeAffinity"]),
        (json!({"volumeMode": "Block"}), &["volumeMode"]),
        (
            json!({"hostPath": {"path": "/"}}),
            &["spec.persistentvolumesource"],
        ),
    ] {
        let mut spec = json!(spec_of(&old));
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let mut errors = Errors::new();
        volume(&spec).validate_update(&old, &mut errors);
        let found: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(found, fields, "{more}");
    }
}

#[test]
fn a_phase_has_the_time_it_began() {
    let mut old = volume(&disk(&json!({"hostPath": {"path": "/tmp"}})));
    old.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    old.prepare_for_create();
    let began = |volume: &PersistentVolume| {
        volume
            .status
            .as_ref()
            .and_then(|status| status.last_phase_transition_time.clone())
    };
    assert_eq!(began(&old), Some(Time(Timestamp::UNIX_EPOCH)));
    let mut new = old.clone();
    new.status = Some(PersistentVolumeStatus {
        phase: Some("Pending".to_owned()),
        ..Default::default()
    });
    new.prepare_for_status_update(&old);
    assert_eq!(began(&new), began(&old));
    new.status.get_or_insert_default().phase = Some("Bound".to_owned());
    new.prepare_for_status_update(&old);
    assert!(began(&new) > began(&old));
}

#[test]
fn rows_show_the_claim() {
    let spec = disk(
        &json!({"hostPath": {"path": "/tmp"}, "storageClassName": "standard",
        "claimRef": {"namespace": "default", "name": "data-web-0"}}),
    );
    let cells = volume(&spec).row(Timestamp::UNIX_EPOCH);
    let shown: Vec<_> = cells[1..8]
        .iter()
        .map(|cell| cell.as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        shown,
        [
            "1Gi",
            "RWO",
            "Retain",
            "Pending",
            "default/data-web-0",
            "standard",
            ""
        ]
    );
}
