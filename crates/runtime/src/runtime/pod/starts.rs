//! Starting a container, and seeing to it that a start that was given up does not come about after all.
//!
//! A start is a request to the shim, and the answer may be lost while the container begins: the shim cut
//! the connection, or gave an answer that makes no sense. Such a start is *given up*: what there is of the
//! container is killed, its name stays taken until that is done, and should the shim tell of the container
//! later, it is removed there too. So there is never a second container of the same name beside it.

use futures::future::BoxFuture;
use jiff::Timestamp;

use super::{Container, ContainerInfo, ContainerState, Pod, Starting, State};
use crate::blocking::blocking;
use crate::config::ContainerConfig;
use crate::runtime::StartError;
use crate::runtime::connection::RequestError;
use crate::runtime::launch::{self, Launch, Meant, Plan};
use crate::shim::protocol::{Answer, FailureKind, Op};

/// How often it is tried to remove what is left of a start before its name is left blocked. Each time
/// something new can have joined the cgroup that was just emptied, but only what began before.
const DISCARDS: usize = 5;

impl Pod {
    /// Creates a container and starts it.
    ///
    /// Cancelled, the container may start all the same; it is then found by [`Self::containers`].
    pub fn start_container<'a>(
        &'a self,
        config: ContainerConfig,
    ) -> BoxFuture<'a, Result<ContainerInfo, StartError>> {
        Box::pin(async move {
            let (pod, id) = (self.clone(), new_id());
            let started_id = id.clone();
            let started = self.inner.shared.tasks.spawn(async move {
                pod.finish_blocked(&config.name).await;
                pod.state().reserve(&id, &config.name)?;
                match pod.start(&id, config).await {
                    Ok(container) => Ok(pod.started(container)),
                    Err(error) => {
                        pod.abandon(&id).await;
                        Err(error)
                    }
                }
            });
            started.await.unwrap_or_else(|error| {
                self.state().block(&started_id);
                Err(StartError::Failed {
                    id: started_id,
                    message: error.to_string(),
                })
            })
        })
    }

    async fn start(&self, id: &str, config: ContainerConfig) -> Result<Container, StartError> {
        let shared = &self.inner.shared;
        let image = shared.images.get(&config.image)?;
        let image = image.ok_or_else(|| StartError::NoImage(config.image.clone()))?;
        let hold = image.hold();
        let (pod, plan_id) = (self.clone(), id.to_owned());
        let (launch, config, image_id) = blocking(move || {
            let inner = &pod.inner;
            let launch = launch::prepare(&Plan {
                id: &plan_id,
                pod: &inner.config,
                container: &config,
                image: &image,
                images: &inner.shared.images,
                cgroups: &inner.shared.cgroups,
                dirs: &inner.dirs,
                available: inner.shared.available,
            });
            (launch, config, image.id().clone())
        })
        .await;
        let (pid, started_at) = self.launch(id, launch?).await?;
        let oom_score_adj = config.oom_score_adj;
        let state = ContainerState::Running { pid, started_at };
        let info = ContainerInfo::new(id.to_owned(), &Meant { config, image_id }, state);
        Ok(Container {
            info,
            oom_score_adj,
            _image: Some(hold),
        })
    }

    async fn launch(&self, id: &str, launch: Launch) -> Result<(i32, Timestamp), StartError> {
        let fds = launch.fds(&self.inner.shared.mount_namespace);
        let op = Op::Start(Box::new(launch.start.clone()));
        let error = match self.connection().request(op, &fds).await {
            Ok((
                Answer::Started {
                    pid,
                    started_at,
                    warnings,
                },
                _,
            )) => {
                warnings
                    .iter()
                    .for_each(|warning| tracing::warn!(pod = self.uid(), "{warning}"));
                return Ok((pid, started_at));
            }
            Ok(_) => RequestError::Nonsense,
            Err(error) => error,
        };
        if let RequestError::Refused(failure) = error {
            let (id, message) = (id.to_owned(), failure.message);
            return Err(match failure.kind {
                FailureKind::Command => StartError::Command { id, message },
                _ => StartError::Failed { id, message },
            });
        }
        // Nobody knows whether it has begun.
        self.state().given_up.insert(id.to_owned());
        Err(match error {
            RequestError::Lost => StartError::PodEnded,
            error => StartError::Failed {
                id: id.to_owned(),
                message: error.to_string(),
            },
        })
    }

    /// Adds a container that has started; its end may have been heard of already.
    fn started(&self, mut container: Container) -> ContainerInfo {
        let mut state = self.state();
        let id = container.info.id.clone();
        let exit = state.starting.remove(&id).and_then(|starting| starting.exit);
        if let Some(exit) = &exit {
            container.info.state = ContainerState::Exited(exit.clone());
        }
        let info = container.info.clone();
        state.containers.insert(id, container);
        drop(state);
        if let Some(exit) = exit {
            self.tell_exit(&info, exit);
        }
        info
    }

    /// Removes what there is of a container that did not start, or nobody knows whether it has; its name is
    /// free when that is done.
    async fn abandon(&self, id: &str) {
        let given_up = self.state().given_up.contains(id);
        // The next server learns from the shim what came of it.
        if given_up && self.inner.shared.closing.is_cancelled() {
            return;
        }
        for attempt in 1..=DISCARDS {
            match self.discard(id).await {
                Ok(()) => {
                    self.state().starting.remove(id);
                    break;
                }
                Err(error) if attempt == DISCARDS => {
                    tracing::warn!(pod = self.uid(), %error, "something is left of a container that did not start");
                    self.state().block(id);
                }
                Err(_) => {}
            }
        }
        if given_up {
            // The shim may know it as one that has ended; if its end is still to come, it is told of then.
            self.forget(id.to_owned());
        }
    }

    /// Tries anew to remove what blocks a name.
    async fn finish_blocked(&self, name: &str) {
        let blocked: Vec<String> = self.state().blocked(name);
        for id in blocked {
            self.abandon(&id).await;
        }
    }

    /// Kills all of a container, and removes its cgroup and its directory.
    pub(super) async fn discard(&self, id: &str) -> Result<(), StartError> {
        let pod = self.clone();
        let shared = &self.inner.shared;
        let cgroup = shared.cgroups.container(&shared.cgroups.pod(self.uid())?, id)?;
        shared.cgroups.kill(&cgroup).await?;
        let bundle = self.inner.dirs.bundle(id);
        blocking(move || launch::discard(&pod.inner.shared.cgroups, &cgroup, &bundle)).await
    }
}

impl State {
    fn reserve(&mut self, id: &str, name: &str) -> Result<(), StartError> {
        let runs = |container: &Container| container.info.name == name && container.info.is_running();
        let starts = |starting: &Starting| starting.name == name;
        if self.containers.values().any(runs) || self.starting.values().any(starts) {
            return Err(StartError::NameInUse(name.to_owned()));
        }
        let starting = Starting {
            name: name.to_owned(),
            exit: None,
            blocked: false,
        };
        self.starting.insert(id.to_owned(), starting);
        Ok(())
    }

    /// Something is left of a start, so that its name cannot be used.
    fn block(&mut self, id: &str) {
        if let Some(starting) = self.starting.get_mut(id) {
            starting.blocked = true;
        }
    }

    /// The starts that left something and block this name. They are taken up by whoever asks.
    fn blocked(&mut self, name: &str) -> Vec<String> {
        let blocked = self
            .starting
            .iter_mut()
            .filter(|(_, starting)| starting.name == name);
        blocked
            .filter_map(|(id, starting)| std::mem::take(&mut starting.blocked).then(|| id.clone()))
            .collect()
    }
}

fn new_id() -> String {
    let mut random = [0u8; 32];
    // Cannot fail on a kernel that can do anything else this crate needs; and the name is only a name.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}
