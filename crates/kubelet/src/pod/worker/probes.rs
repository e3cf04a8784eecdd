//! What a container's probes tell, and when each of them runs.

use std::net::Ipv4Addr;

use stead_informer::EventType;

use super::{Live, Msg, Worker};
use crate::pod::observed::{Container, Doom, Run};
use crate::pod::wanted::find;
use crate::probe::{self, Kind, Prober, Report, probes};

impl Worker {
    pub(super) fn probed(&mut self, name: &str, id: &str, kind: Kind, report: Report) {
        let Some(Container {
            run: Run::Running(running),
            ..
        }) = self.seen.containers.get_mut(name)
        else {
            return;
        };
        if running.id != id || (running.stopping && kind != Kind::Readiness) {
            return;
        }
        match (kind, report) {
            (_, Report::Unhealthy(why)) => {
                let message = format!("{} probe failed: {why}", kind.title());
                self.jobs
                    .record(Some(name), EventType::Warning, "Unhealthy", message);
            }
            (_, Report::Errored(why)) => {
                let message = format!(
                    "{} probe errored and resulted in unknown state: {why}",
                    kind.title()
                );
                self.jobs
                    .record(Some(name), EventType::Warning, "Unhealthy", message);
            }
            (Kind::Startup, Report::Passed) => {
                running.started = true;
                self.watch_container(name, &[Kind::Readiness, Kind::Liveness]);
            }
            (Kind::Startup, Report::Failed) => running.doom = Some(Doom::Startup),
            (Kind::Readiness, Report::Passed) => running.ready = true,
            (Kind::Readiness, Report::Failed) => running.ready = false,
            (Kind::Liveness, Report::Failed) => running.doom = Some(Doom::Liveness),
            (Kind::Liveness, Report::Passed) => {}
        }
    }

    /// Begins the probes of containers that ran before this worker.
    pub(super) fn watch_running(&mut self) {
        let names: Vec<(String, bool)> = self
            .seen
            .containers
            .iter()
            .filter_map(|(name, container)| Some((name.clone(), container.running()?.started)))
            .collect();
        for (name, started) in names {
            self.live.insert(name.clone(), Live::new());
            let kinds: &[Kind] = if started {
                &[Kind::Readiness, Kind::Liveness]
            } else {
                &[Kind::Startup]
            };
            self.watch_container(&name, kinds);
        }
    }

    /// Begins some of a container's probes. A container without a readiness probe is ready once it
    /// has started.
    pub(super) fn watch_container(&mut self, name: &str, kinds: &[Kind]) {
        let Some(sandbox) = &self.sandbox else { return };
        let Some((spec, _)) = find(&self.pod, name) else {
            return;
        };
        let mut probes = probes(spec);
        let Some(Container {
            run: Run::Running(running),
            ..
        }) = self.seen.containers.get_mut(name)
        else {
            return;
        };
        let Some(live) = self.live.get_mut(name) else {
            return;
        };
        if kinds.contains(&Kind::Readiness) && !probes.contains_key(&Kind::Readiness) {
            running.ready = true;
        }
        let ip: Ipv4Addr = self.seen.ip.unwrap_or(self.node.config.node_ip);
        for kind in kinds {
            let Some(wanted) = probes.remove(kind) else {
                continue;
            };
            let prober = Prober {
                pod: sandbox.clone(),
                container: running.id.clone(),
                ip: ip.into(),
            };
            let (own, name, id, kind) = (self.own.clone(), name.to_owned(), running.id.clone(), *kind);
            let tell = move |report| {
                own.send(Msg::Probe {
                    name: name.clone(),
                    id: id.clone(),
                    kind,
                    report,
                })
                .is_ok()
            };
            let probe = wanted.clone();
            let check = move || {
                let (prober, probe) = (prober.clone(), probe.clone());
                async move { probe::check(&prober, &probe).await }
            };
            let task = live.probes.spawn(probe::run(wanted, check, tell));
            if kind != Kind::Readiness {
                live.until_stopped.push(task);
            }
        }
    }
}
