//! The end of a container: its preStop hook, its signal, and its deadline.

use stead_informer::EventType;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Done, Jobs, Stop};
use crate::pod::signals;
use crate::pod::wanted::{find, wanted};

impl Jobs {
    /// Runs the hook, if any, then asks the container to stop, and ends it when its time is over.
    /// The time may be cut short meanwhile.
    pub(crate) async fn stop_container(self, stop: Stop) -> Done {
        let Stop {
            sandbox,
            name,
            id,
            mut deadline,
            exited,
        } = stop;
        let container = find(&self.pod, &name).map(|(container, _)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            tokio::select! {
                biased;
                () = exited.cancelled() => {}
                () = past(&mut deadline) => {}
                result = self.run_hook(&sandbox, &name, &id, hook) => {
                    if let Err(message) = result {
                        tracing::debug!(container = name, message, "a hook failed");
                        self.record(Some(&name), EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
                    }
                }
            }
        }
        self.ask_then_kill(&sandbox, &name, &id, &mut deadline, &exited)
            .await;
        Done::Stopped
    }

    /// Asks a container to stop, and ends it when its time is over.
    async fn ask_then_kill(
        &self,
        sandbox: &stead_runtime::Pod,
        name: &str,
        id: &str,
        deadline: &mut watch::Receiver<Instant>,
        exited: &CancellationToken,
    ) {
        if let Err(error) = sandbox.signal(id, self.stop_signal(name), false).await {
            tracing::debug!(container = name, %error, "a container was not asked to stop");
        }
        tokio::select! {
            biased;
            () = exited.cancelled() => {}
            () = past(deadline) => {
                if let Err(error) = sandbox.signal(id, signals::kill(), true).await {
                    tracing::debug!(container = name, %error, "a container was not killed");
                }
            }
        }
    }

    /// What asks a container to stop: its own signal, or its image's.
    fn stop_signal(&self, name: &str) -> i32 {
        let container = find(&self.pod, name).map(|(container, _)| container);
        let lifecycle = container.and_then(|container| container.lifecycle.as_ref());
        let own = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.clone());
        let images = || {
            let image = container
                .and_then(|container| container.image.as_deref())
                .unwrap_or_default();
            self.node
                .images
                .resolve(image)
                .ok()
                .flatten()
                .map(|image| image.config.run.stop_signal)
        };
        own.or_else(images)
            .and_then(|signal| signals::parse(&signal))
            .unwrap_or_else(signals::term)
    }

    /// Ends a container whose hook failed; its policy says what follows. What the hook said is not for
    /// events, as there may be secrets in it.
    pub(super) async fn end_after_hook(&self, sandbox: &stead_runtime::Pod, name: &str, id: &str) {
        self.record(
            Some(name),
            EventType::Warning,
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        self.record(Some(name), EventType::Normal, "Killing", "FailedPostStartHook");
        let grace = wanted(&self.pod, false, false).grace;
        let (_sender, mut deadline) = watch::channel(Instant::now() + grace);
        let exited = self.node.end_of_container(sandbox, id);
        self.ask_then_kill(sandbox, name, id, &mut deadline, &exited)
            .await;
    }
}

/// Waits until a deadline that may still be moved has passed.
async fn past(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = sleep_until(at) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    return sleep_until(at).await;
                }
            }
        }
    }
}
