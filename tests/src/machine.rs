//! What looks to a program like a computer of its own.
//!
//! A machine is a set of namespaces around a shell that does nothing but be there:
//!
//! - Its processes are numbered on their own, and end when the shell does; and the shell ends when its input
//!   does, which is a pipe from here. So nothing outlives the tests, even when these are killed.
//! - It has a network of its own, with an uplink to a host outside ([`Outside`]) that is a namespace as well,
//!   and leads nowhere.
//! - Mounts are its own; `/run` is empty, `/var/lib` and `/etc/resolv.conf` are in the machine's folder.
//!
//! Control groups are not its own: they are where a cluster has to choose its own names. The cluster of commands
//! without options always chooses the same one, so only one machine at a time may have it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::cluster::Place;
use crate::leftovers::{Cgroups, Traces};
use crate::outside::{Outside, in_network};
use crate::program::Program;
use crate::words::words;

/// Sets up the machine, says `ready`, and is the machine's first process. `$1` is the machine's folder.
///
/// The shell stays, as it takes care of orphans; `cat` ends when the pipe from the tests does.
const INIT: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mount --bind "$1/var-lib" /var/lib
resolv=$(readlink -m /etc/resolv.conf)
[ -e "$resolv" ] || { mkdir -p "$(dirname "$resolv")" && : >"$resolv"; }
mount --bind "$1/resolv.conf" "$resolv"
ip netns add outside
ip link set lo up
ip link add uplink type veth peer name machine netns outside
ip address add 192.0.2.2/24 dev uplink
ip link set uplink up
ip -n outside link set lo up
ip -n outside address add 192.0.2.1/24 dev machine
ip -n outside link set machine up
ip route add default via 192.0.2.1
# As on stock Debian, where nothing has loaded br_netfilter.
setting=/proc/sys/net/bridge/bridge-nf-call-iptables
[ ! -e $setting ] || echo 0 >$setting
echo ready
cat >/dev/null
"#;

/// A computer of its own, as far as the programs on it can tell. When this is dropped, they are all killed.
#[derive(Debug)]
pub struct Machine {
    init: Child,
    /// The machine ends when this is closed.
    input: Option<ChildStdin>,
    /// The machine's first process, as seen from here.
    pid: u32,
    before: Traces,
    cgroups: Mutex<Cgroups>,
    pub(crate) clusters: Mutex<Vec<Place>>,
    /// Locked, when the machine has the cluster of commands without options.
    default_cluster: Mutex<Option<File>>,
    dir: tempfile::TempDir,
}

impl Machine {
    /// Starts a machine.
    ///
    /// # Errors
    /// When this is not root, or a namespace cannot be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("stead-e2e-").tempdir()?;
        for folder in ["home", "var-lib"] {
            fs::create_dir(dir.path().join(folder))?;
        }
        // Nobody answers there unless a test wants it; then a name should soon be known to be unknown.
        let resolv_conf = format!("nameserver {}\noptions timeout:1 attempts:1\n", Outside::ADDRESS);
        fs::write(dir.path().join("resolv.conf"), resolv_conf)?;
        let mut init = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--propagation=private"])
            .args(["--fork", "--kill-child=KILL", "--mount-proc", "--"])
            .args(["/bin/sh", "-c", INIT, "sh"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run unshare")?;
        let input = init.stdin.take();
        let mut said = String::new();
        if let Some(stdout) = init.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        if said != "ready\n" {
            drop(input);
            let output = init.wait_with_output()?;
            bail!("set up a machine: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut machine = Self {
            pid: only_child(init.id())?,
            init,
            input,
            before: Traces::default(),
            cgroups: Mutex::default(),
            clusters: Mutex::default(),
            default_cluster: Mutex::default(),
            dir,
        };
        machine.before = machine.traces()?;
        Ok(machine)
    }

    /// The machine's folder. It has the same path on the machine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program on this machine. Its home directory is the machine's.
    pub fn run(&self, line: &str) -> Program {
        self.program(line.to_owned(), words(line), true)
    }

    /// A program that uses the machine's network and files, but is no process of the machine: one that talks
    /// to a server. It can be killed from here, unlike those of [`Machine::run`].
    pub fn client(&self, line: &str) -> Program {
        self.program(line.to_owned(), words(line), false)
    }

    pub(crate) fn program(&self, line: String, words: Vec<String>, as_process: bool) -> Program {
        let target = self.pid.to_string();
        let mut prefix = vec!["nsenter", "--target", &target, "--net", "--mount"];
        if as_process {
            prefix.push("--pid");
        }
        prefix.push("--");
        let prefix = prefix.into_iter().map(str::to_owned).collect();
        let home = self.dir().join("home").display().to_string();
        Program::new(line, prefix, words).env("HOME", home)
    }

    /// Does something in the machine's network, on a thread of its own.
    ///
    /// # Errors
    /// The action's, or when the machine is gone.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.pid);
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        in_network(&namespace, action)
    }

    /// What is at the other end of the machine's uplink.
    ///
    /// # Errors
    /// When its namespace cannot be opened.
    pub fn outside(&self) -> Result<Outside> {
        let path = self.root().join("run/netns/outside");
        let namespace = File::open(&path).with_context(|| format!("open {path:?}"))?;
        Ok(Outside::new(namespace))
    }

    /// The machine's root directory, as seen from here.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid))
    }

    /// The machine's processes, as `pid command line`. The pids are the machine's own.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn processes(&self) -> Result<Vec<String>> {
        let mut processes = Vec::new();
        for (pid, dir) in self.process_dirs()? {
            // One that ends meanwhile is none.
            let Ok(bytes) = fs::read(dir.join("cmdline")) else {
                continue;
            };
            let mut line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            if pid == 1 {
                // The whole script, otherwise.
                line = "init".to_owned();
            } else if line.is_empty() {
                let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
                line = format!("[{}]", name.trim());
            }
            processes.push(format!("{pid} {}", line.trim()));
        }
        Ok(processes)
    }

    /// Waits until no other machine on this computer has the cluster of commands without options, also of other
    /// runs of the tests. It is this machine's then, until it ends.
    ///
    /// # Errors
    /// When control groups are not where they always are.
    pub fn own_default_cluster(&self) -> Result<()> {
        const SHARED: &str = "/sys/fs/cgroup";
        let mut own = self
            .default_cluster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if own.is_none() {
            let shared = File::open(SHARED).with_context(|| format!("open {SHARED}"))?;
            flock(&shared, FlockOperation::LockExclusive).with_context(|| format!("lock {SHARED}"))?;
            *own = Some(shared);
        }
        Ok(())
    }

    /// Takes down which control groups the machine's processes are in, to look for them at the end.
    ///
    /// # Errors
    /// When the machine is gone.
    pub fn note_cgroups(&self) -> Result<()> {
        let mut cgroups = self.lock_cgroups();
        for (_, dir) in self.process_dirs()? {
            if let Ok(text) = fs::read_to_string(dir.join("cgroup")) {
                cgroups.note(&text);
            }
        }
        Ok(())
    }

    /// Fails if anything is on the machine that was not there when it was started, or has gone.
    ///
    /// # Errors
    /// Names everything that is different.
    pub fn check_nothing_is_left(&self) -> Result<()> {
        let mut left = self.before.changes(&self.traces()?);
        left.extend(self.lock_cgroups().left().map(|dir| format!("+ cgroup {dir:?}")));
        ensure!(
            left.is_empty(),
            "the machine is not as it was:\n{}",
            left.join("\n")
        );
        Ok(())
    }

    fn traces(&self) -> Result<Traces> {
        let network = self.run("sh -s").stdin(Traces::NETWORK_SCRIPT).ok()?;
        // Zombies have ended, and wait only for the first process to notice.
        let mut processes = self.processes()?;
        processes.retain(|process| !process.ends_with(']'));
        Traces::new(
            processes,
            &fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))?,
            &network,
            &[self.dir().to_owned(), self.root().join("run")],
        )
    }

    fn process_dirs(&self) -> Result<Vec<(u32, PathBuf)>> {
        let dir = self.root().join("proc");
        let entries = fs::read_dir(&dir).with_context(|| format!("list {dir:?}"))?;
        let number = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
        let mut dirs: Vec<_> = entries.flatten().filter_map(number).collect();
        dirs.sort_unstable();
        Ok(dirs)
    }

    fn lock_cgroups(&self) -> MutexGuard<'_, Cgroups> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.note_cgroups();
        self.input = None;
        // It has ended when all processes of the machine have.
        let _ = self.init.wait();
        self.lock_cgroups().remove();
    }
}

fn only_child(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    children
        .trim()
        .parse()
        .with_context(|| format!("one child in {path}, not {children:?}"))
}
