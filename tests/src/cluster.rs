//! A cluster on a machine, and what one does with it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::artifacts::{self, Image};
use crate::kubectl::{self, Kubectl};
use crate::machine::Machine;
use crate::program::Program;
use crate::stream::Stream;
use crate::words::words;
use crate::{PATIENCE, eventually};

/// Where a cluster is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) kubeconfig: PathBuf,
}

/// A `stead` on a machine. It is not ended when this is dropped, but when the machine is.
#[derive(Debug)]
pub struct Cluster<'m> {
    /// What it runs on.
    pub machine: &'m Machine,
    place: Place,
    kubectl: Kubectl,
    /// The program, if not the one under test.
    stead: Option<PathBuf>,
}

impl<'m> Cluster<'m> {
    /// A cluster yet to be started, with data and kubeconfig in the machine's folder, under this name.
    ///
    /// # Errors
    /// When there is no `kubectl`.
    pub fn new(machine: &'m Machine, name: &str) -> Result<Self> {
        let data_dir = machine.dir().join(name);
        let kubeconfig = machine.dir().join("kubeconfig").join(name);
        Self::at(machine, data_dir, kubeconfig)
    }

    /// A cluster yet to be started, with its data and kubeconfig in a folder that outlives the machine.
    ///
    /// # Errors
    /// When there is no `kubectl`.
    pub fn on_disk(machine: &'m Machine, disk: &Path) -> Result<Self> {
        Self::at(machine, disk.join("data"), disk.join("kubeconfig"))
    }

    /// The machine's cluster of commands without options. Waits until no other machine has one.
    ///
    /// # Errors
    /// When there is no `kubectl`.
    pub fn by_default(machine: &'m Machine) -> Result<Self> {
        machine.own_default_cluster()?;
        let kubeconfig = machine.dir().join("home/.kube/config");
        Self::at(machine, PathBuf::from("/var/lib/stead"), kubeconfig)
    }

    fn at(machine: &'m Machine, data_dir: PathBuf, kubeconfig: PathBuf) -> Result<Self> {
        let place = Place { data_dir, kubeconfig };
        let mut clusters = machine
            .clusters
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        clusters.push(place.clone());
        Ok(Self {
            machine,
            place,
            kubectl: kubectl::newest()?,
            stead: None,
        })
    }

    /// The same cluster, used through another `kubectl`.
    #[must_use]
    pub fn with_kubectl(&self, kubectl: Kubectl) -> Self {
        Self {
            machine: self.machine,
            place: self.place.clone(),
            kubectl,
            stead: self.stead.clone(),
        }
    }

    /// The same cluster, used through another `stead`, as after an update.
    #[must_use]
    pub fn with_stead(&self, stead: &Path) -> Self {
        Self {
            machine: self.machine,
            place: self.place.clone(),
            kubectl: self.kubectl.clone(),
            stead: Some(stead.to_owned()),
        }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.place.data_dir
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.place.kubeconfig
    }

    /// `stead LINE --data-dir …`.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn stead(&self, line: &str) -> Result<Program> {
        self.stead_words(format!("stead {line}"), words(line))
    }

    fn stead_words(&self, line: String, arguments: Vec<String>) -> Result<Program> {
        let stead = self.stead.clone().map_or_else(artifacts::stead, Ok)?;
        let mut words = vec![stead.display().to_string()];
        words.extend(arguments);
        words.extend(["--data-dir".to_owned(), self.place.data_dir.display().to_string()]);
        Ok(self.machine.program(line, words, true))
    }

    /// `stead up --detach`; returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn up(&self) -> Result<String> {
        let kubeconfig = self.place.kubeconfig.display();
        let said = self
            .stead(&format!("up --detach --kubeconfig {kubeconfig}"))?
            .ok()?;
        self.machine.note_cgroups()?;
        Ok(said)
    }

    /// `stead down`.
    ///
    /// # Errors
    /// When it fails.
    pub fn down(&self) -> Result<()> {
        self.machine.note_cgroups()?;
        self.stead("down")?.ok().map(drop)
    }

    /// `stead delete --yes`.
    ///
    /// # Errors
    /// When it fails.
    pub fn delete(&self) -> Result<()> {
        self.machine.note_cgroups()?;
        self.stead("delete --yes")?.ok().map(drop)
    }

    /// `stead image load`.
    ///
    /// # Errors
    /// When the image cannot be made or loaded.
    pub fn load(&self, image: &Image) -> Result<()> {
        let file = image.file()?.display().to_string();
        self.stead(&format!("image load {file}"))?.ok().map(drop)
    }

    /// `stead status --output json`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn status(&self) -> Result<Value> {
        let text = self.stead("status --output json")?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("the status {text:?}"))
    }

    /// The server's process, as the machine numbers it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn server_pid(&self) -> Result<u64> {
        let status = self.status()?;
        let pid = status.pointer("/server/pid").and_then(Value::as_u64);
        pid.with_context(|| format!("no server's pid in {status}"))
    }

    /// Ends the server with SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_server(&self) -> Result<()> {
        let pid = self.server_pid()?;
        self.machine.run(&format!("kill -KILL {pid}")).ok()?;
        let gone = format!("{pid} ");
        eventually("the server is gone", || {
            let processes = self.machine.processes()?;
            ensure!(!processes.iter().any(|process| process.starts_with(&gone)));
            Ok(())
        })
    }

    /// `kubectl LINE`.
    pub fn kubectl(&self, line: &str) -> Program {
        let mut all = vec![
            self.kubectl.path.display().to_string(),
            "--kubeconfig".to_owned(),
            self.place.kubeconfig.display().to_string(),
        ];
        all.extend(words(line));
        self.machine
            .program(format!("{} {line}", self.kubectl), all, false)
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// When it fails.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.kubectl("apply -f -").stdin(manifest).ok()
    }

    /// `kubectl get WHAT -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn get(&self, what: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {what} -o json")).ok()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A field of an object, by JSON pointer. Strings come without quotes, what is not there as `null`.
    ///
    /// # Errors
    /// When the object is not there.
    pub fn field(&self, what: &str, pointer: &str) -> Result<String> {
        let object = self.get(what)?;
        Ok(match object.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "null".to_owned(),
        })
    }

    /// `kubectl wait WHAT --for=CONDITION`.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn wait_for(&self, what: &str, condition: &str) -> Result<()> {
        let timeout = PATIENCE.as_secs();
        let wait = format!("wait {what} '--for={condition}' --timeout={timeout}s");
        // The limit is kubectl's here, since it says what it waited for.
        self.kubectl(&wait).limit(PATIENCE * 2).ok().map(drop)
    }

    /// `kubectl rollout status` of a StatefulSet.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn rolled_out(&self, set: &str) -> Result<String> {
        let timeout = PATIENCE.as_secs();
        self.kubectl(&format!("rollout status sts/{set} --timeout={timeout}s"))
            .limit(PATIENCE * 2)
            .ok()
    }

    /// Runs a shell script in a pod.
    ///
    /// # Errors
    /// When it fails.
    pub fn in_pod(&self, pod: &str, script: &str) -> Result<String> {
        self.kubectl(&format!("exec {pod} -- sh -c '{script}'")).ok()
    }

    /// The uids of pods.
    ///
    /// # Errors
    /// When one is not there.
    pub fn uids(&self, pods: &[&str]) -> Result<Vec<String>> {
        pods.iter()
            .map(|pod| self.field(&format!("pod {pod}"), "/metadata/uid"))
            .collect()
    }

    /// Asks a URL from the machine.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub fn curl(&self, url: &str) -> Result<String> {
        let curl = format!("curl --silent --show-error --fail --max-time 10 {url}");
        self.machine.client(&curl).ok()
    }

    /// Follows the changes of a resource's objects: `pods` or, in another group, `apis/apps/v1/statefulsets`.
    /// The objects that are there come first.
    ///
    /// # Errors
    /// When `kubectl` cannot be started.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let (prefix, kind) = path
            .rsplit_once('/')
            .map_or(("api/v1", path), |(prefix, kind)| (prefix, kind));
        let url = format!("/{prefix}/namespaces/default/{kind}?watch=true");
        Ok(Watch(self.kubectl(&format!("get --raw {url}")).start()?))
    }

    /// Everything worth knowing about the cluster when a test has failed.
    pub(crate) fn describe(machine: &Machine, place: &Place) -> String {
        let mut text = String::new();
        let cluster = match kubectl::newest() {
            Ok(kubectl) => Cluster {
                machine,
                place: place.clone(),
                kubectl,
                stead: None,
            },
            Err(error) => return error.to_string(),
        };
        let mut section = |name: &str, program: Program| {
            let outcome = program.limit(std::time::Duration::from_secs(10)).run();
            let said = match outcome {
                Ok(outcome) if outcome.code == 0 => outcome.stdout,
                Ok(outcome) => outcome.to_string(),
                Err(error) => format!("{error:#}"),
            };
            let lines: Vec<_> = said.lines().collect();
            let tail = lines[lines.len().saturating_sub(150)..].join("\n");
            let _ = write!(text, "\n===== {name}\n{tail}\n");
        };
        if let Ok(status) = cluster.stead("status") {
            section("stead status", status);
        }
        for line in [
            "get node,all,endpointslices,pvc,pv -A -o wide",
            "events -A",
            "describe pods,sts,pvc",
        ] {
            section(line, cluster.kubectl(line));
        }
        if let Ok(logs) = cluster.stead("logs") {
            section("stead logs", logs);
        }
        text
    }
}

/// The changes of objects, as they happen.
#[derive(Debug)]
pub struct Watch(Stream);

impl Watch {
    /// Waits for the next change: its type (`ADDED`, `MODIFIED`, `DELETED`) and the object.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`].
    pub fn next(&mut self) -> Result<(String, Value)> {
        let line = self.0.line("")?;
        let mut event: Value =
            serde_json::from_str(&line).with_context(|| format!("not a change: {line:?}"))?;
        let kind = event.pointer("/type").and_then(Value::as_str).unwrap_or_default();
        Ok((kind.to_owned(), event["object"].take()))
    }
}
