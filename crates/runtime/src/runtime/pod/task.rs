//! The pod's task: hears of everything that happens to the pod, and sees off what its shim leaves.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::adopt::{dead_containers, greet};
use super::{Container, ContainerInfo, ContainerState, Pod, ShimContainer, ShimEvent};
use crate::blocking::blocking;
use crate::record::ExitRecord;
use crate::runtime::connection::Connection;
use crate::runtime::shim::{self, ShimError};
use crate::runtime::{Event, dirs, launch};
use crate::shim::protocol::Op;

impl Pod {
    pub(super) fn spawn_task(&self, pidfd: OwnedFd) {
        let pod = self.clone();
        let shared = &self.inner.shared;
        let closing = shared.closing.clone();
        shared.attending.spawn(async move {
            match closing.run_until_cancelled(pod.listen(pidfd)).await {
                Some(()) => pod.see_off().await,
                // Nobody reads it any more.
                None => pod.connection().close(),
            }
        });
    }

    /// Hears of everything until the shim has ended.
    async fn listen(&self, pidfd: OwnedFd) {
        let child = pidfd.try_clone();
        let end = crate::ready::process_end(pidfd);
        tokio::pin!(end);
        loop {
            let connection = self.connection();
            tokio::select! {
                ended = &mut end => {
                    if let Err(error) = ended {
                        tracing::error!(pod = self.uid(), %error, "the shim of a pod cannot be watched");
                    }
                    break;
                }
                () = connection.run(|event| self.heard(event)) => {}
            }
            // Cut off while it lives, because it was not listened to for too long: ask again.
            tokio::select! {
                _ = &mut end => break,
                reconnected = self.reconnect() => {
                    if let Err(error) = reconnected {
                        tracing::error!(pod = self.uid(), %error, "the shim of a pod cannot be reached");
                        let _ = (&mut end).await;
                        break;
                    }
                }
            }
        }
        self.connection().finish(|event| self.heard(event));
        if let Ok(child) = child {
            // An orphan, so a child of whoever is process 1 here. Where that is this server, nobody else
            // waits for it; elsewhere it is not ours, and nothing happens.
            let how = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG;
            let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(child.as_fd()), how);
        }
    }

    /// Makes a new connection. What it leads to is asked in a task of its own, since this one must listen.
    async fn reconnect(&self) -> Result<(), ShimError> {
        let path = self.inner.dirs.socket();
        let failed = |source| ShimError::File {
            action: "connect to",
            path: path.clone(),
            source,
        };
        let socket = shim::find(&self.inner.dirs).await?;
        let Some(socket) = socket else {
            return std::future::pending().await;
        };
        self.state().connection = Arc::new(Connection::new(socket).map_err(failed)?);
        let pod = self.clone();
        self.state().asking += 1;
        self.inner.shared.tasks.spawn(async move {
            match greet(&pod.connection()).await {
                Ok(known) => pod.take_over(known).await,
                Err(error) => tracing::warn!(pod = pod.uid(), %error, "a shim does not tell its state"),
            }
            let mut state = pod.state();
            state.asking -= 1;
            if state.asking == 0 {
                state.removed.clear();
            }
        });
        Ok(())
    }

    /// Learns what the shim knows; removes what was being started when the server before this one ended.
    pub(super) async fn take_over(&self, known: Vec<ShimContainer>) {
        let mut unfinished = dirs::names(&self.inner.dirs.containers());
        unfinished.retain(|id| !self.knows(id));
        for container in known {
            let id = container.container.clone();
            unfinished.retain(|other| *other != id);
            if !self.learn(container) {
                self.end_unknown(id).await;
            }
        }
        for id in unfinished {
            let remove = Op::Remove {
                container: id.clone(),
            };
            if !self.knows(&id)
                && self.order(remove).await.is_ok()
                && let Err(error) = self.discard(&id).await
            {
                tracing::warn!(pod = self.uid(), %error, "something is left of a container that was being started");
            }
        }
    }

    /// Does somebody see to this container: does it run, has it ended, or is it being started or removed?
    fn knows(&self, id: &str) -> bool {
        let state = self.state();
        state.containers.contains_key(id) || state.starting.contains_key(id) || state.is_unwanted(id)
    }

    /// Ends a container that nobody can say anything about, or nobody wants: its start was given up, but came
    /// about.
    async fn end_unknown(&self, id: String) {
        tracing::warn!(
            pod = self.uid(),
            container = id,
            "a container whose start was given up is ended"
        );
        let kill = Op::Signal {
            container: id.clone(),
            signal: libc::SIGKILL,
            all: true,
        };
        // One that has ended is removed at once; of the other's end the shim will tell.
        if self.order(kill).await.is_err() {
            let _ = self.order(Op::Remove { container: id }).await;
        }
    }

    /// `false` if it should not be there: there is no description of it, or its start was given up, or it was
    /// removed.
    fn learn(&self, known: ShimContainer) -> bool {
        let id = known.container;
        if self.state().is_unwanted(&id) {
            return false;
        }
        if self.knows(&id) {
            if let Some(exit) = known.exit {
                self.heard(ShimEvent::ContainerExited { container: id, exit });
            }
            return true;
        }
        let Some(meant) = launch::read_meant(&self.inner.dirs.bundle(&id)) else {
            return false;
        };
        let state = match known.exit {
            Some(exit) => ContainerState::Exited(exit),
            None => ContainerState::Running {
                pid: known.pid,
                started_at: known.started_at,
            },
        };
        let container = Container {
            info: ContainerInfo::new(id.clone(), &meant, state),
            oom_score_adj: meant.config.oom_score_adj,
            _image: launch::hold(&self.inner.shared.images, &meant.image_id),
        };
        let mut state = self.state();
        // That may have changed meanwhile.
        let wanted = !state.is_unwanted(&id);
        if wanted {
            state.containers.insert(id, container);
        }
        wanted
    }

    pub(super) fn heard(&self, event: ShimEvent) {
        let ShimEvent::ContainerExited { container: id, exit } = event else {
            return;
        };
        let mut state = self.state();
        if let Some(container) = state.containers.get_mut(&id) {
            if container.info.is_running() {
                container.info.state = ContainerState::Exited(exit.clone());
                let info = container.info.clone();
                drop(state);
                self.tell_exit(&info, exit);
            }
        } else if state.is_unwanted(&id) {
            drop(state);
            self.forget(id);
        } else if let Some(starting) = state.starting.get_mut(&id) {
            // Whoever starts it tells of it, once it is there.
            starting.exit = Some(exit);
        } else {
            drop(state);
            self.heard_of_unknown(id, exit);
        }
    }

    /// A container has ended that this server has not started, nor learned of.
    fn heard_of_unknown(&self, id: String, exit: ExitRecord) {
        let Some(meant) = launch::read_meant(&self.inner.dirs.bundle(&id)) else {
            return self.forget(id);
        };
        let info = ContainerInfo::new(id.clone(), &meant, ContainerState::Exited(exit.clone()));
        let container = Container {
            info: info.clone(),
            oom_score_adj: None,
            _image: None,
        };
        self.state().containers.insert(id, container);
        self.tell_exit(&info, exit);
    }

    /// Has the shim forget a container that has ended.
    pub(super) fn forget(&self, id: String) {
        let pod = self.clone();
        self.inner.shared.tasks.spawn(async move {
            // One that has gone together with its shim is forgotten.
            let _ = pod.order(Op::Remove { container: id }).await;
        });
    }

    pub(super) fn tell_exit(&self, info: &ContainerInfo, exit: ExitRecord) {
        self.tell(Event::ContainerExited {
            pod: self.uid().to_owned(),
            container: info.id.clone(),
            name: info.name.clone(),
            exit,
        });
    }

    fn tell(&self, event: Event) {
        // Nobody may want to know.
        let _ = self.inner.shared.events.send(event);
    }

    /// The shim has ended: makes sure that everything of the pod has, and says so.
    async fn see_off(&self) {
        let cgroups = &self.inner.shared.cgroups;
        let emptied = async {
            let cgroup = cgroups.pod(self.uid())?;
            cgroups.kill(&cgroup).await?;
            cgroups.remove(&cgroup)
        };
        if let Err(error) = emptied.await {
            tracing::error!(pod = self.uid(), %error, "the cgroup of a pod that has ended cannot be emptied");
        }
        let dirs = self.inner.dirs.clone();
        let containers = blocking(move || dead_containers(&dirs)).await;
        for container in containers {
            if let ContainerState::Exited(exit) = container.state {
                self.heard(ShimEvent::ContainerExited {
                    container: container.id,
                    exit,
                });
            }
        }
        let run = self.inner.dirs.run.clone();
        if let Err(error) = blocking(move || dirs::remove(&run)).await {
            tracing::warn!(pod = self.uid(), %error, "something is left of a pod that has ended");
        }
        self.inner.shared.pods().remove(self.uid());
        self.inner.ended.send_replace(true);
        self.tell(Event::PodEnded {
            pod: self.uid().to_owned(),
        });
    }
}
