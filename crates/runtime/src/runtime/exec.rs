//! Running further processes in a container, and attaching to its first one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::connection::{Connection, RequestError};
use super::launch;
use super::pod::{Pod, PodError};
use super::stream::{Input, Output, Terminal, pipe_ends};
use crate::blocking::blocking;
use crate::config::User;
use crate::oci::{self, user};
use crate::shim::protocol::{Exec as ExecRequest, FailureKind, Op};

/// What to run, and how to be connected to it.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Give it a terminal; standard error is then part of its output.
    pub tty: bool,
    /// Have something to write to its standard input.
    pub stdin: bool,
    /// Have something to read its standard output from.
    pub stdout: bool,
    /// The same for standard error.
    pub stderr: bool,
    /// Added to the environment of the container's first process.
    pub env: Vec<(String, String)>,
    /// Instead of the working directory of the container's first process.
    pub working_dir: Option<PathBuf>,
    /// Instead of the user of the container's first process.
    pub user: Option<User>,
}

impl ExecConfig {
    /// A command with its output, and no input.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let command = command.into_iter().map(Into::into).collect();
        Self {
            command,
            stdout: true,
            stderr: true,
            ..Self::default()
        }
    }
}

/// A process in a container. Dropped, the process goes on, but nobody is connected to it.
#[derive(Debug)]
pub struct Exec {
    /// If asked for.
    pub stdin: Option<Input>,
    /// If asked for.
    pub stdout: Option<Output>,
    /// If asked for, and there is no terminal.
    pub stderr: Option<Output>,
    terminal: Option<Arc<Terminal>>,
    id: u64,
    connection: Arc<Connection>,
    exit: oneshot::Receiver<i32>,
}

/// A process was not started, or what became of it is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program cannot be run; in runc's words.
    #[error("OCI runtime exec failed: exec failed: unable to start container process: {0}: unknown")]
    Command(String),
    /// The user is not in the image.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The descriptors or documents for it could not be made.
    #[error("prepare the process: {0}")]
    Prepare(#[source] io::Error),
    /// See [`PodError`].
    #[error(transparent)]
    Pod(#[from] PodError),
}

impl From<RequestError> for ExecError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(failure) if failure.kind == FailureKind::Command => {
                Self::Command(failure.message)
            }
            other => Self::Pod(other.into()),
        }
    }
}

impl Exec {
    /// Waits for the end of the process; its exit code, as a shell gives it. Output that is still in the
    /// pipes can be read afterwards. Cancelled, it may be called again.
    pub async fn wait(&mut self) -> Result<i32, PodError> {
        (&mut self.exit).await.map_err(|_| PodError::Ended)
    }

    /// Sends a signal to the process.
    pub async fn signal(&self, signal: i32) -> Result<(), PodError> {
        self.connection
            .order(
                Op::SignalExec {
                    exec: self.id,
                    signal,
                },
                &[],
            )
            .await?;
        Ok(())
    }

    /// Sets the size of its terminal; nothing happens without one.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.terminal
            .as_ref()
            .map_or(Ok(()), |terminal| terminal.resize(rows, columns))
    }
}

/// The outcome of [`Pod::exec_sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// As a shell gives it.
    pub exit_code: i32,
    /// As much of it as was asked for.
    pub stdout: Vec<u8>,
    /// The same.
    pub stderr: Vec<u8>,
}

/// A process did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecSyncError {
    /// It was not started, or the pod has ended.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// It took too long, and was killed.
    #[error("command {0:?} timed out")]
    TimedOut(String),
}

/// How to be connected to a container's first process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttachConfig {
    /// Have something to write to its standard input, if it has one.
    pub stdin: bool,
    /// Have a copy of its standard output.
    pub stdout: bool,
    /// Have a copy of its standard error; with a terminal there is none.
    pub stderr: bool,
}

/// A connection to a container's first process. What it writes from now on is read here; while it is not
/// read, the container waits. The outputs end with the container.
#[derive(Debug)]
pub struct Attach {
    /// If asked for, and the container has one.
    pub stdin: Option<Input>,
    /// If asked for.
    pub stdout: Option<Output>,
    /// If asked for, and the container has no terminal.
    pub stderr: Option<Output>,
}

impl Pod {
    /// Runs a process in a container.
    pub fn exec<'a>(
        &'a self,
        container: &'a str,
        config: ExecConfig,
    ) -> BoxFuture<'a, Result<Exec, ExecError>> {
        Box::pin(async move {
            let info = self.container(container);
            let info = info.ok_or_else(|| PodError::NotFound(format!("no container {container}")))?;
            if !info.is_running() {
                return Err(PodError::State(format!("container {container} is not running")).into());
            }
            let tty = config.tty;
            let (stdin, stdout, stderr) = (config.stdin, config.stdout, config.stderr);
            let (process, uid) = self.process_document(container, config).await?;
            let ends = if tty {
                Ends::default()
            } else {
                Ends::new(stdin, stdout, stderr, uid)?
            };
            let request = Op::Exec(ExecRequest {
                container: container.to_owned(),
                tty,
                cgroup_tasks: self
                    .cgroup_tasks(container)
                    .map_err(|e| PodError::Request(e.to_string()))?,
                oom_score_adj: self.oom_score_adj(container),
            });
            let fds: Vec<_> = [self.mount_namespace(), process.as_fd()]
                .into_iter()
                .chain(ends.theirs.iter().map(AsFd::as_fd))
                .collect();
            let connection = self.connection();
            let (id, master, exit) = connection.exec(request, &fds).await?;
            // Or their ends would never be closed.
            drop(ends.theirs);
            let mut exec = Exec {
                stdin: None,
                stdout: None,
                stderr: None,
                terminal: None,
                id,
                connection,
                exit,
            };
            if let Some(master) = master {
                let terminal = Terminal::new(master).map_err(ExecError::Prepare)?;
                exec.stdin = stdin.then(|| Input::terminal(&terminal));
                exec.stdout = stdout.then(|| Output::terminal(&terminal));
                exec.terminal = Some(terminal);
            } else {
                exec.stdin = ends
                    .stdin
                    .map(Input::pipe)
                    .transpose()
                    .map_err(ExecError::Prepare)?;
                exec.stdout = ends
                    .stdout
                    .map(Output::pipe)
                    .transpose()
                    .map_err(ExecError::Prepare)?;
                exec.stderr = ends
                    .stderr
                    .map(Output::pipe)
                    .transpose()
                    .map_err(ExecError::Prepare)?;
            }
            Ok(exec)
        })
    }

    /// Runs a process to its end, as probes do. Up to `max_bytes` of each output are kept. After `timeout`
    /// it is killed.
    pub fn exec_sync<'a>(
        &'a self,
        container: &'a str,
        config: ExecConfig,
        timeout: Option<Duration>,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<ExecOutput, ExecSyncError>> {
        Box::pin(async move {
            let command = config.command.join(" ");
            let mut exec = self.exec(container, config).await?;
            exec.stdin = None;
            let mut stdout = Collected::new(exec.stdout.take(), max_bytes);
            let mut stderr = Collected::new(exec.stderr.take(), max_bytes);
            let finished = async {
                loop {
                    tokio::select! {
                        exit_code = exec.wait() => return exit_code,
                        () = stdout.more() => {}
                        () = stderr.more() => {}
                    }
                }
            };
            let exit_code = match timeout {
                None => finished.await,
                Some(timeout) => match tokio::time::timeout(timeout, finished).await {
                    Ok(exit_code) => exit_code,
                    Err(_) => {
                        // It may have ended in this moment, and the pod with it.
                        let _ = exec.signal(libc::SIGKILL).await;
                        return Err(ExecSyncError::TimedOut(command));
                    }
                },
            };
            let exit_code = exit_code.map_err(ExecError::from)?;
            // A process left in the background may hold the outputs open for ever.
            Ok(ExecOutput {
                exit_code,
                stdout: stdout.rest(),
                stderr: stderr.rest(),
            })
        })
    }

    /// Connects to a container's first process.
    pub fn attach<'a>(
        &'a self,
        container: &'a str,
        config: AttachConfig,
    ) -> BoxFuture<'a, Result<Attach, ExecError>> {
        Box::pin(async move {
            let info = self.container(container);
            let info = info.ok_or_else(|| PodError::NotFound(format!("no container {container}")))?;
            let stderr = config.stderr && !info.tty;
            let pipe = |wanted: bool| wanted.then(pipe_ends).transpose().map_err(ExecError::Prepare);
            let (out, err) = (pipe(config.stdout)?, pipe(stderr)?);
            let op = Op::Attach {
                container: container.to_owned(),
                stdin: config.stdin,
                stdout: config.stdout,
                stderr,
            };
            let fds: Vec<_> = [&out, &err]
                .into_iter()
                .flatten()
                .map(|(_, write)| write.as_fd())
                .collect();
            let stdin = self.connection().order(op, &fds).await?;
            let stdin = match stdin {
                Some(fd) if info.tty => {
                    Some(Input::terminal(&Terminal::new(fd).map_err(ExecError::Prepare)?))
                }
                Some(fd) => Some(Input::pipe(fd).map_err(ExecError::Prepare)?),
                None => None,
            };
            let output = |ends: Option<(OwnedFd, OwnedFd)>| {
                ends.map(|(read, _)| Output::pipe(read))
                    .transpose()
                    .map_err(ExecError::Prepare)
            };
            Ok(Attach {
                stdin,
                stdout: output(out)?,
                stderr: output(err)?,
            })
        })
    }

    /// The OCI document of a further process, in memory, and the uid it will have.
    async fn process_document(
        &self,
        container: &str,
        config: ExecConfig,
    ) -> Result<(OwnedFd, u32), ExecError> {
        let identity = match (&config.user, self.users(container)) {
            (Some(wanted), users) => Some(user::resolve(&users.unwrap_or_default(), wanted, "")?),
            (None, _) => None,
        };
        let bundle = self.bundle(container);
        let make = move || -> io::Result<(OwnedFd, u32)> {
            let spec = launch::read_spec(bundle)?;
            let first = spec.process().clone().unwrap_or_default();
            let (args, env, cwd) = (config.command, &config.env, config.working_dir);
            let process = oci::exec_process(&first, args, env, cwd, identity.as_ref(), config.tty);
            let document = rustix::fs::memfd_create("process.json", MemfdFlags::CLOEXEC)?;
            let bytes = serde_json::to_vec(&process)?;
            io::Write::write_all(&mut std::fs::File::from(document.try_clone()?), &bytes)?;
            Ok((document, process.user().uid()))
        };
        blocking(make).await.map_err(ExecError::Prepare)
    }
}

/// Both ends of a process' standard streams.
#[derive(Default)]
struct Ends {
    /// Input, output, error.
    theirs: Vec<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Ends {
    /// Pipes where they are wanted, `/dev/null` elsewhere; the process' ends belong to its user, who may
    /// want to open `/dev/stdout`.
    fn new(stdin: bool, stdout: bool, stderr: bool, uid: u32) -> Result<Self, ExecError> {
        let make = || -> io::Result<Self> {
            let mut ends = Self::default();
            match stdin {
                true => {
                    let (read, write) = pipe_ends()?;
                    ends.theirs.push(read);
                    ends.stdin = Some(write);
                }
                false => ends.theirs.push(null()?),
            }
            for (wanted, ours) in [(stdout, &mut ends.stdout), (stderr, &mut ends.stderr)] {
                match wanted {
                    true => {
                        let (read, write) = pipe_ends()?;
                        ends.theirs.push(write);
                        *ours = Some(read);
                    }
                    false => ends.theirs.push(null()?),
                }
            }
            let pipes = [stdin, stdout, stderr]
                .into_iter()
                .zip(&ends.theirs)
                .filter(|(pipe, _)| *pipe);
            pipes
                .into_iter()
                .try_for_each(|(_, fd)| std::os::unix::fs::fchown(fd, Some(uid), None))?;
            Ok(ends)
        };
        make().map_err(ExecError::Prepare)
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// An output that is read, and kept up to a limit.
struct Collected {
    output: Option<Output>,
    bytes: Vec<u8>,
    max_bytes: usize,
    buffer: Vec<u8>,
}

impl Collected {
    fn new(output: Option<Output>, max_bytes: usize) -> Self {
        Self {
            output,
            bytes: Vec::new(),
            max_bytes,
            buffer: vec![0; 4096],
        }
    }

    /// Waits for more; for ever if there will be none. Cancelled, it loses nothing.
    async fn more(&mut self) {
        let Some(output) = &mut self.output else {
            return std::future::pending().await;
        };
        match output.read(&mut self.buffer).await {
            Ok(0) | Err(_) => self.output = None,
            Ok(length) => self.keep(length),
        }
    }

    fn keep(&mut self, length: usize) {
        let room = self.max_bytes - self.bytes.len();
        self.bytes.extend_from_slice(&self.buffer[..length.min(room)]);
    }

    /// What is there without waiting.
    fn rest(mut self) -> Vec<u8> {
        while let Some(length) = self
            .output
            .as_mut()
            .and_then(|output| output.try_read(&mut self.buffer))
        {
            self.keep(length);
        }
        self.bytes
    }
}
