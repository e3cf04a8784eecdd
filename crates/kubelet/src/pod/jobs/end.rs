//! The end of a pod: what is taken down, and what is removed for good.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::{Done, Jobs, with_causes};
use crate::volume;

impl Jobs {
    /// Takes network, shim and mounts down; what is on disk stays.
    pub(crate) async fn take_down(self, address: Option<Ipv4Addr>) -> Done {
        let (network, uid) = (self.node.network.clone(), self.uid().to_owned());
        if let Some(sandbox) = self.node.runtime.pod(&uid)
            && let Err(error) = sandbox.stop().await
        {
            return Done::TakenDown(Err(error.to_string()));
        }
        let detached = tokio::task::spawn_blocking(move || network.detach(&uid)).await;
        if let Ok(Err(error)) = detached {
            return Done::TakenDown(Err(with_causes(&error)));
        }
        if let Some(address) = address.filter(|address| *address != self.node.config.node_ip) {
            self.node.release(address);
        }
        Done::TakenDown(volume::tear_down(&self.dirs).map_err(|error| error.to_string()))
    }

    /// Removes all that is left of the pod here, and tells the API that it is over.
    pub(crate) async fn finalize(self, gone: bool) -> Done {
        Done::Finalized(self.end(gone).await)
    }

    async fn end(&self, gone: bool) -> Result<(), String> {
        if let Some(pod) = self.node.runtime.pod(self.uid()) {
            pod.remove().await.map_err(|error| error.to_string())?;
        } else {
            self.node
                .runtime
                .remove_dead(self.uid())
                .await
                .map_err(|error| error.to_string())?;
        }
        let dirs = self.dirs.clone();
        let removed = tokio::task::spawn_blocking(move || {
            [dirs.data(), dirs.run(), dirs.logs()]
                .into_iter()
                .try_for_each(remove_dir_if_there)
        });
        removed
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        if gone {
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.node.client.clone(), self.namespace());
        match api.delete(self.name(), &params).await {
            Ok(_) => Ok(()),
            // Gone already, or another pod of the name is there: this one is over.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn remove_dir_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
