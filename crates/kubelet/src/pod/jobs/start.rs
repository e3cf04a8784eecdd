//! The start of a container: its environment, mounts and files, and its postStart hook.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodIP, Secret};
use kube::Api;
use stead_informer::{EventType, Key};
use stead_runtime::config::Mount;
use stead_runtime::{ContainerInfo, StartError};

use super::{Done, Jobs, NotStarted, Start, StartFailure, remove_if_there, with_causes};
use crate::pod::container::{Given, container_config, mount};
use crate::pod::env::{Sources, environment, expand, references};
use crate::pod::wanted::find;
use crate::volume::{Volumes, resolve_sub_path};

impl Jobs {
    pub(crate) async fn start_container(self, start: Start) -> Done {
        let result = self.start(&start).await;
        if let Err(failure) = &result
            && failure.kind != NotStarted::Hook
        {
            let message = format!("Error: {}", failure.message);
            self.record(Some(&start.name), EventType::Warning, "Failed", message);
        }
        Done::Started(start.name, result)
    }

    async fn start(&self, start: &Start) -> Result<ContainerInfo, StartFailure> {
        let Start {
            sandbox,
            name,
            attempt,
            volumes,
            address,
            ending,
        } = start;
        let attempt = *attempt;
        let refused = |message: String| StartFailure {
            reason: "CreateContainerConfigError",
            message,
            kind: NotStarted::Refused,
        };
        let (container, _) = find(&self.pod, name).ok_or_else(|| refused(format!("no container {name}")))?;
        // The address may not have reached the API yet, but variables may refer to it.
        let mut pod = Pod::clone(&self.pod);
        if let Some(address) = address {
            let status = pod.status.get_or_insert_default();
            status.pod_ip = Some(address.to_string());
            status.pod_ips = Some(vec![PodIP {
                ip: address.to_string(),
            }]);
        }
        let sources = self
            .sources(container)
            .await
            .map_err(|error| refused(api_message(&error)))?;
        let env = environment(&pod, container, &sources, &self.node.facts)
            .map_err(|error| refused(error.to_string()))?;
        let mounts = self.mounts(container, volumes, &env).map_err(refused)?;
        let image = self
            .node
            .images
            .resolve(container.image.as_deref().unwrap_or_default())
            .ok()
            .flatten();
        let image_user = image.map(|image| image.config.run.user).unwrap_or_default();
        self.make_files(name, attempt)
            .map_err(|error| refused(error.to_string()))?;
        let config = container_config(Given {
            pod: &pod,
            container,
            attempt,
            env,
            mounts,
            dirs: &self.dirs,
            node: &self.node.facts,
            image_user: &image_user,
        })
        .map_err(|error| refused(error.to_string()))?;
        let info = match sandbox.start_container(config).await {
            Ok(info) => info,
            Err(error) => return Err(self.start_failure(name, error)),
        };
        self.record(Some(name), EventType::Normal, "Created", "Container created");
        self.record(Some(name), EventType::Normal, "Started", "Container started");
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(info) };
        let ran = tokio::select! {
            biased;
            () = ending.cancelled() => Ok(()),
            ran = self.run_hook(sandbox, name, &info.id, hook) => ran,
        };
        match ran {
            Ok(()) => Ok(info),
            Err(message) => {
                self.end_after_hook(sandbox, name, &info.id).await;
                let (reason, kind) = ("PostStartHookError", NotStarted::Hook);
                Err(StartFailure {
                    reason,
                    message,
                    kind,
                })
            }
        }
    }

    fn start_failure(&self, name: &str, error: StartError) -> StartFailure {
        let made = match &error {
            StartError::Command { id, .. } | StartError::Failed { id, .. } => Some(id.clone()),
            _ => None,
        };
        if made.is_some() {
            self.record(Some(name), EventType::Normal, "Created", "Container created");
        }
        StartFailure {
            reason: if made.is_some() {
                "RunContainerError"
            } else {
                "CreateContainerError"
            },
            message: with_causes(&error),
            kind: made.map_or(NotStarted::Refused, |id| NotStarted::Command { id }),
        }
    }

    /// The objects that a container's environment refers to.
    async fn sources(&self, container: &Container) -> Result<Sources, kube::Error> {
        let mut sources = Sources::default();
        let (config_maps, secrets) = references(container);
        let client = || self.node.client.clone();
        for name in config_maps {
            let api: Api<ConfigMap> = Api::namespaced(client(), self.namespace());
            if let Some(object) = api.get_opt(name).await? {
                sources.config_maps.insert(name.to_owned(), Arc::new(object));
            }
        }
        for name in secrets {
            let api: Api<Secret> = Api::namespaced(client(), self.namespace());
            if let Some(object) = api.get_opt(name).await? {
                sources.secrets.insert(name.to_owned(), Arc::new(object));
            }
        }
        let services = &self.node.informers.services;
        sources.services = services.in_namespace(self.namespace());
        sources
            .services
            .extend(services.get(&Key::new("default", "kubernetes")));
        Ok(sources)
    }

    fn mounts(
        &self,
        container: &Container,
        volumes: &Volumes,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, String> {
        let lookup = |name: &str| {
            env.iter()
                .find(|(other, _)| other == name)
                .map(|(_, value)| value.clone())
        };
        container
            .volume_mounts
            .iter()
            .flatten()
            .map(|wanted| {
                let prepared = volumes.by_name.get(&wanted.name).ok_or_else(|| {
                    format!(
                        "cannot find volume \"{}\" to mount into container \"{}\"",
                        wanted.name, container.name
                    )
                })?;
                let sub_path = match (&wanted.sub_path_expr, &wanted.sub_path) {
                    (Some(expression), _) if !expression.is_empty() => expand(expression, lookup),
                    (_, Some(path)) => path.clone(),
                    _ => String::new(),
                };
                let path = if sub_path.is_empty() {
                    prepared.path.clone()
                } else {
                    resolve_sub_path(&prepared.path, &sub_path).map_err(|error| {
                        format!(
                            "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                            wanted.name, container.name
                        )
                    })?
                };
                Ok(mount(wanted, &path, prepared.read_only))
            })
            .collect()
    }

    /// The files of one attempt: where it logs, and where it leaves its last words.
    fn make_files(&self, name: &str, attempt: u32) -> std::io::Result<()> {
        let log = self.dirs.log(name, attempt);
        let last_words = self.dirs.termination_log(name, attempt);
        for path in [&log, &last_words] {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
        }
        fs::write(&last_words, "")?;
        fs::set_permissions(&last_words, fs::Permissions::from_mode(0o666))?;
        // Logs and last words of attempts before the last one are of no use any more.
        if let Some(old) = attempt.checked_sub(2) {
            for path in [self.dirs.log(name, old), self.dirs.termination_log(name, old)] {
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }
}

fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
