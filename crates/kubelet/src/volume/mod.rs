//! A pod's volumes: where each is on the host, made ready before containers start.
//!
//! What is mounted into containers are plain directories of the host; the mounts themselves are the
//! runtime's. Objects are asked for when a volume is set up, and again when they change.

mod atomic;
mod host_path;
mod ownership;
pub(crate) mod payload;
mod sub_path;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, EmptyDirVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod,
    ProjectedVolumeSource, Secret, SecretProjection, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use kube::Api;
use kube::api::PostParams;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use stead_api::quantity::Quantity;
use stead_informer::Key;

use self::atomic::{WriteError, failed};
use self::payload::{Payload, PayloadError};
use crate::config::PodDirs;
use crate::node::Node;

pub(crate) use sub_path::resolve as resolve_sub_path;

/// Mode of files that a volume does not say otherwise of.
const DEFAULT_MODE: u32 = 0o644;

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

/// All volumes of a pod, and when they should be looked at again though nothing changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Volumes {
    pub(crate) by_name: BTreeMap<String, Prepared>,
    /// All of them have been made.
    pub(crate) ready: bool,
    /// When a token is to be renewed.
    pub(crate) renew_at: Option<Timestamp>,
}

/// Why a volume is not ready.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {why}")]
pub(crate) struct VolumeError {
    volume: String,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Why {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{0}")]
    Api(String),
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NoClaim(String),
    #[error("PersistentVolumeClaim \"{0}\" is not bound")]
    Unbound(String),
    #[error("volume \"{0}\" is bound to another claim")]
    OtherClaim(String),
    #[error("volumes of this kind are not served by this node")]
    Unsupported,
    #[error("{0}")]
    HostPath(String),
}

impl From<kube::Error> for Why {
    fn from(error: kube::Error) -> Why {
        match error {
            kube::Error::Api(status) => Why::Api(status.message.clone()),
            other => Why::Api(other.to_string()),
        }
    }
}

/// Makes all volumes of a pod ready, or brings those made from objects up to date (`again`).
pub(crate) async fn set_up(
    node: &Node,
    pod: &Pod,
    dirs: &PodDirs,
    again: bool,
) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::default();
    let spec = pod.spec.as_ref();
    let security = spec.and_then(|spec| spec.security_context.as_ref());
    let group = security
        .and_then(|security| security.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    let policy = security.and_then(|security| security.fs_group_change_policy.as_deref());
    for volume in spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let job = SetUp {
            node,
            pod,
            dirs,
            group,
            group_on_mismatch: again || policy == Some("OnRootMismatch"),
        };
        let prepared = job
            .volume(volume, &mut volumes.renew_at)
            .await
            .map_err(|why| VolumeError {
                volume: volume.name.clone(),
                why,
            })?;
        volumes.by_name.insert(volume.name.clone(), prepared);
    }
    volumes.ready = true;
    Ok(volumes)
}

/// Removes what volumes hold in memory. What is on disk goes with the pod's directory.
pub(crate) fn tear_down(dirs: &PodDirs) -> Result<(), WriteError> {
    let root = dirs.run().join("volumes");
    let Ok(entries) = fs::read_dir(&root) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        // A directory without a file system of its own is not unmounted, but removed.
        let _ = unmount(entry.path(), UnmountFlags::DETACH);
    }
    fs::remove_dir_all(dirs.run()).map_err(failed("remove", dirs.run()))
}

struct SetUp<'s> {
    node: &'s Node,
    pod: &'s Pod,
    dirs: &'s PodDirs,
    group: Option<u32>,
    /// What is in a claim is given to the group only if the claim itself is not the group's yet.
    group_on_mismatch: bool,
}

impl SetUp<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    async fn volume(&self, volume: &Volume, renew_at: &mut Option<Timestamp>) -> Result<Prepared, Why> {
        let ready = |path: PathBuf| {
            Ok(Prepared {
                path,
                read_only: false,
            })
        };
        if let Some(empty) = &volume.empty_dir {
            return ready(self.empty_dir(&volume.name, empty)?);
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            return self
                .claim(&claim.claim_name, claim.read_only.unwrap_or(false))
                .await;
        }
        if let Some(host) = &volume.host_path {
            let path = PathBuf::from(&host.path);
            host_path::check(&path, host.type_.as_deref().unwrap_or_default()).map_err(Why::HostPath)?;
            return ready(path);
        }
        let mut files = Payload::new();
        let path = if let Some(source) = &volume.config_map {
            let wanted = ConfigMapProjection {
                name: source.name.clone(),
                items: source.items.clone(),
                optional: source.optional,
            };
            self.config_map(&mut files, &wanted, mode(source.default_mode))
                .await?;
            self.dirs.volume(&volume.name)
        } else if let Some(source) = &volume.secret {
            let wanted = SecretProjection {
                name: source.secret_name.clone().unwrap_or_default(),
                items: source.items.clone(),
                optional: source.optional,
            };
            self.secret(&mut files, &wanted, mode(source.default_mode))
                .await?;
            self.dirs.memory_volume(&volume.name)
        } else if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            payload::downward(
                &mut files,
                self.pod,
                items,
                &self.node.facts,
                mode(source.default_mode),
            )?;
            self.dirs.volume(&volume.name)
        } else if let Some(source) = &volume.projected {
            self.projected(&mut files, source, renew_at).await?;
            self.dirs.memory_volume(&volume.name)
        } else {
            return Err(Why::Unsupported);
        };
        atomic::write(&path, &files, self.group)?;
        // Nobody is to write what the next change would undo.
        Ok(Prepared {
            path,
            read_only: true,
        })
    }

    fn empty_dir(&self, name: &str, source: &EmptyDirVolumeSource) -> Result<PathBuf, Why> {
        let in_memory = source.medium.as_deref() == Some("Memory");
        let path = if in_memory {
            self.dirs.memory_volume(name)
        } else {
            self.dirs.volume(name)
        };
        let fresh = !path.exists();
        fs::create_dir_all(&path).map_err(failed("make", &path))?;
        if !fresh {
            return Ok(path);
        }
        if in_memory {
            let limit = source
                .size_limit
                .as_ref()
                .and_then(|limit| limit.0.parse::<Quantity>().ok());
            let size = limit.map(Quantity::value).filter(|size| *size > 0);
            let options =
                size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
            let options = std::ffi::CString::new(options).unwrap_or_default();
            mount(
                "tmpfs",
                &path,
                "tmpfs",
                MountFlags::NOSUID | MountFlags::NODEV,
                options.as_c_str(),
            )
            .map_err(|errno| failed("mount", &path)(errno.into()))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
            .map_err(failed("set the mode of", &path))?;
        if let Some(group) = self.group {
            ownership::give(&path, group)?;
        }
        Ok(path)
    }

    /// The volume behind a claim. The claim must be bound to it, and it to the claim: a claim made
    /// anew under an old name is not given the old one's data.
    async fn claim(&self, name: &str, read_only: bool) -> Result<Prepared, Why> {
        let key = Key::new(self.namespace(), name);
        let is_bound = |claim: &PersistentVolumeClaim| {
            claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        };
        // The caches may lag behind the pod, which was scheduled when its claims were bound.
        let claim = match self
            .node
            .informers
            .claims
            .get(&key)
            .filter(|claim| is_bound(claim))
        {
            Some(claim) => claim,
            None => {
                let api = Api::namespaced(self.node.client.clone(), self.namespace());
                Arc::new(
                    api.get_opt(name)
                        .await?
                        .ok_or_else(|| Why::NoClaim(name.to_owned()))?,
                )
            }
        };
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone())
            .filter(|_| is_bound(&claim));
        let volume = volume.ok_or_else(|| Why::Unbound(name.to_owned()))?;
        let found = match self.node.informers.volumes.get(&Key::new("", &volume)) {
            Some(found) => found,
            None => {
                let api: Api<PersistentVolume> = Api::all(self.node.client.clone());
                Arc::new(
                    api.get_opt(&volume)
                        .await?
                        .ok_or_else(|| Why::Unbound(name.to_owned()))?,
                )
            }
        };
        let spec = found.spec.clone().unwrap_or_default();
        let owner = spec
            .claim_ref
            .as_ref()
            .and_then(|reference| reference.uid.as_deref());
        if owner != claim.metadata.uid.as_deref() {
            return Err(Why::OtherClaim(volume));
        }
        let path = match (&spec.local, &spec.host_path) {
            (Some(local), _) => PathBuf::from(&local.path),
            (None, Some(host)) => {
                let path = PathBuf::from(&host.path);
                host_path::check(&path, host.type_.as_deref().unwrap_or_default()).map_err(Why::HostPath)?;
                path
            }
            (None, None) => return Err(Why::Unsupported),
        };
        if !path.is_dir() {
            return Err(Why::HostPath(format!(
                "path \"{}\" does not exist",
                path.display()
            )));
        }
        if let (Some(group), Some(_)) = (self.group, &spec.local) {
            let (path, on_mismatch) = (path.clone(), self.group_on_mismatch);
            let given = tokio::task::spawn_blocking(move || ownership::give_all(&path, group, on_mismatch));
            given.await.map_err(|error| Why::Api(error.to_string()))??;
        }
        Ok(Prepared { path, read_only })
    }

    async fn projected(
        &self,
        files: &mut Payload,
        source: &ProjectedVolumeSource,
        renew_at: &mut Option<Timestamp>,
    ) -> Result<(), Why> {
        let default = mode(source.default_mode);
        for source in source.sources.iter().flatten() {
            if let Some(wanted) = &source.config_map {
                self.config_map(files, wanted, default).await?;
            }
            if let Some(wanted) = &source.secret {
                self.secret(files, wanted, default).await?;
            }
            if let Some(wanted) = &source.downward_api {
                let items = wanted.items.as_deref().unwrap_or_default();
                payload::downward(files, self.pod, items, &self.node.facts, default)?;
            }
            if let Some(wanted) = &source.service_account_token {
                let (token, renew) = self.token(wanted).await?;
                *renew_at = Some(renew_at.map_or(renew, |other| other.min(renew)));
                payload::token(files, &wanted.path, &token, default)?;
            }
            if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
                return Err(Why::Unsupported);
            }
        }
        Ok(())
    }

    async fn config_map(
        &self,
        files: &mut Payload,
        wanted: &ConfigMapProjection,
        default: u32,
    ) -> Result<(), Why> {
        let api: Api<ConfigMap> = Api::namespaced(self.node.client.clone(), self.namespace());
        let object = api.get_opt(&wanted.name).await?;
        Ok(payload::config_map(files, wanted, object.as_ref(), default)?)
    }

    async fn secret(&self, files: &mut Payload, wanted: &SecretProjection, default: u32) -> Result<(), Why> {
        let api: Api<Secret> = Api::namespaced(self.node.client.clone(), self.namespace());
        let object = api.get_opt(&wanted.name).await?;
        Ok(payload::secret(files, wanted, object.as_ref(), default)?)
    }

    /// A token for the pod's service account, bound to the pod, and when to renew it: after four
    /// fifths of its time.
    async fn token(&self, wanted: &ServiceAccountTokenProjection) -> Result<(String, Timestamp), Why> {
        let account = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default();
        let api: Api<ServiceAccount> = Api::namespaced(self.node.client.clone(), self.namespace());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                expiration_seconds: wanted.expiration_seconds,
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let now = Timestamp::now();
        let granted = api
            .create_token_request(&account, &PostParams::default(), &request)
            .await?;
        let status = granted.status.unwrap_or_default();
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err(Why::Api("the server granted no token".to_owned()));
        };
        Ok((token, now + expires.0.duration_since(now) * 4 / 5))
    }
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(DEFAULT_MODE)
}
