//! Fields of features that are off by default in v1.37 (alpha). They are dropped from what is
//! written, unless what is stored has them already.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, PodSpec, Probe, Volume};

use super::visit::{any, each_mut};

/// Drops what is off.
pub(crate) fn drop_fields(new: &mut PodSpec, old: Option<&PodSpec>) {
    if old.is_none_or(|old| old.scheduling_group.is_none()) {
        new.scheduling_group = None;
    }
    if old.is_none_or(|old| old.eviction_responders.as_ref().is_none_or(Vec::is_empty)) {
        new.eviction_responders = None;
    }
    for feature in [&BIND_OPTIONS, &STOP_SIGNALS, &HTTP_PROTOCOLS, &GRPC_MODES] {
        if any(new, |container| (feature.is_used)(container))
            && !old.is_some_and(|old| any(old, |container| (feature.is_used)(container)))
        {
            each_mut(new, |container| (feature.drop)(container));
        }
    }
    for feature in [&FILE_OWNERS, &EMPTY_DIR_MODES] {
        let is_used = |spec: &PodSpec| {
            spec.volumes
                .iter()
                .flatten()
                .any(|volume| (feature.is_used)(volume))
        };
        if !old.is_some_and(is_used) {
            new.volumes
                .iter_mut()
                .flatten()
                .for_each(|volume| (feature.drop)(volume));
        }
    }
}

/// A feature's fields in something.
struct Feature<T> {
    is_used: fn(&T) -> bool,
    drop: fn(&mut T),
}

const BIND_OPTIONS: Feature<Container> = Feature {
    is_used: |container| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.bind_mount_options.is_some())
    },
    drop: |container| {
        for mount in container.volume_mounts.iter_mut().flatten() {
            mount.bind_mount_options = None;
        }
    },
};

const STOP_SIGNALS: Feature<Container> = Feature {
    is_used: |container| {
        container
            .lifecycle
            .as_ref()
            .is_some_and(|lifecycle| lifecycle.stop_signal.is_some())
    },
    drop: |container| {
        if let Some(lifecycle) = &mut container.lifecycle
            && lifecycle.stop_signal.take().is_some()
            && *lifecycle == Default::default()
        {
            container.lifecycle = None;
        }
    },
};

const HTTP_PROTOCOLS: Feature<Container> = Feature {
    is_used: |container| {
        let mut copy = container.clone();
        let mut requests = requests(&mut copy);
        requests.any(|request| request.protocol.is_some())
    },
    drop: |container| requests(container).for_each(|request| request.protocol = None),
};

const GRPC_MODES: Feature<Container> = Feature {
    is_used: |container| {
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        let mut actions = probes
            .into_iter()
            .flatten()
            .filter_map(|probe| probe.grpc.as_ref());
        actions.any(|grpc| grpc.mode.is_some())
    },
    drop: |container| {
        for grpc in probes(container).filter_map(|probe| probe.grpc.as_mut()) {
            grpc.mode = None;
        }
    },
};

const EMPTY_DIR_MODES: Feature<Volume> = Feature {
    is_used: |volume| {
        volume
            .empty_dir
            .as_ref()
            .is_some_and(|directory| directory.mode.is_some())
    },
    drop: |volume| {
        if let Some(directory) = &mut volume.empty_dir {
            directory.mode = None;
        }
    },
};

const FILE_OWNERS: Feature<Volume> = Feature {
    is_used: |volume| owners(&mut volume.clone()).iter().any(|owner| owner.is_some()),
    drop: |volume| owners(volume).into_iter().for_each(|owner| *owner = None),
};

fn probes(container: &mut Container) -> impl Iterator<Item = &mut Probe> {
    [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ]
    .into_iter()
    .flatten()
}

fn requests(container: &mut Container) -> impl Iterator<Item = &mut HTTPGetAction> {
    let Container {
        liveness_probe,
        readiness_probe,
        startup_probe,
        lifecycle,
        ..
    } = container;
    let of_probes = [liveness_probe, readiness_probe, startup_probe]
        .into_iter()
        .flatten()
        .filter_map(|probe| probe.http_get.as_mut());
    let of_hooks = lifecycle
        .iter_mut()
        .flat_map(|lifecycle| [&mut lifecycle.post_start, &mut lifecycle.pre_stop])
        .flatten()
        .filter_map(|handler| handler.http_get.as_mut());
    of_probes.chain(of_hooks)
}

/// The owners of files in a volume.
fn owners(volume: &mut Volume) -> Vec<&mut Option<i64>> {
    let mut owners = Vec::new();
    if let Some(secret) = &mut volume.secret {
        owners.push(&mut secret.default_user);
        owners.extend(secret.items.iter_mut().flatten().map(|item| &mut item.user));
    }
    if let Some(config_map) = &mut volume.config_map {
        owners.push(&mut config_map.default_user);
        owners.extend(config_map.items.iter_mut().flatten().map(|item| &mut item.user));
    }
    if let Some(downward) = &mut volume.downward_api {
        owners.push(&mut downward.default_user);
        owners.extend(downward.items.iter_mut().flatten().map(|item| &mut item.user));
    }
    let Some(projected) = &mut volume.projected else {
        return owners;
    };
    owners.push(&mut projected.default_user);
    for source in projected.sources.iter_mut().flatten() {
        let items = source.secret.as_mut().and_then(|secret| secret.items.as_mut());
        owners.extend(items.into_iter().flatten().map(|item| &mut item.user));
        let items = source
            .config_map
            .as_mut()
            .and_then(|config_map| config_map.items.as_mut());
        owners.extend(items.into_iter().flatten().map(|item| &mut item.user));
        let items = source
            .downward_api
            .as_mut()
            .and_then(|downward| downward.items.as_mut());
        owners.extend(items.into_iter().flatten().map(|item| &mut item.user));
        owners.extend(source.service_account_token.as_mut().map(|token| &mut token.user));
        owners.extend(
            source
                .cluster_trust_bundle
                .as_mut()
                .map(|bundle| &mut bundle.user),
        );
        owners.extend(
            source
                .pod_certificate
                .as_mut()
                .map(|certificate| &mut certificate.user),
        );
    }
    owners
}
