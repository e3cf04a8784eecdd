//! The shim's loop: everything that can happen to a pod, one thing at a time.
//!
//! `poll` over what is open now: servers (there may be several for a moment, when one replaces another),
//! signals of ended children, workers, the containers' streams, connections under way. Every step is
//! bounded and none blocks, so a container that floods its log delays the others and the server by one
//! buffer at most. A server that does not read what it is sent is cut off; it can come back and ask.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::container::{Buffers, Container, Files, Life, send_signal};
use super::log::Stream;
use super::protocol::{Answer, Event, Exec, Failure, MAX_MESSAGE_BYTES, Message, Op, Request, Start, agree};
use super::worker::{self, Report, Streams, Task};
use super::{complain, socket};

/// Why a shim cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("listen on the pod's socket: {0}")]
    Listen(#[source] io::Error),
    #[error("receive the signals of children: {0}")]
    Signals(#[source] nix::Error),
    #[error("wait for something to happen: {0}")]
    Poll(#[source] io::Error),
}

/// Serves a pod until it is told to shut down.
pub(crate) fn run(
    server: OwnedFd,
    listener: OwnedFd,
    lock: OwnedFd,
    own_pid_ns: bool,
    input: Vec<u8>,
) -> Result<(), ServeError> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().map_err(ServeError::Signals)?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&mask, flags).map_err(ServeError::Signals)?;
    if !own_pid_ns {
        // Process 1 of a namespace gets its orphans anyway; without one, ask for them.
        let myself = rustix::process::Pid::from_raw(std::process::id().cast_signed());
        let _ = rustix::process::set_child_subreaper(myself);
    }
    // Listening here, and not where the socket was bound, makes this the process that peers see.
    rustix::net::listen(&listener, 16).map_err(|error| ServeError::Listen(error.into()))?;
    rustix::io::ioctl_fionbio(&listener, true).map_err(|error| ServeError::Listen(error.into()))?;
    // A server that looks for this pod in this moment watches the file for a change. See `runtime::shim`.
    let _ = rustix::io::pwrite(&lock, b"listening\n", 0);

    let mut shim = Shim {
        listener,
        _lock: lock,
        signals,
        own_pid_ns,
        connections: Vec::new(),
        containers: Vec::new(),
        workers: Vec::new(),
        execs: Vec::new(),
        dials: Vec::new(),
        lists: Vec::new(),
        ended_early: Vec::new(),
        buffers: Buffers {
            input,
            entries: Vec::new(),
        },
        next_connection: 0,
        shutting_down: false,
    };
    shim.add_connection(server);
    while !shim.finished() {
        for (source, flags) in shim.wait().map_err(|error| ServeError::Poll(error.into()))? {
            shim.handle(source, flags);
        }
        shim.containers.iter_mut().for_each(Container::sweep);
    }
    Ok(())
}

struct Shim {
    listener: OwnedFd,
    /// Held as long as this process lives: nobody else can become the shim of this pod.
    _lock: OwnedFd,
    signals: SignalFd,
    own_pid_ns: bool,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    workers: Vec<Worker>,
    execs: Vec<RunningExec>,
    dials: Vec<Dial>,
    /// Those who want to know all containers, while some are being started for a server that has gone.
    lists: Vec<Caller>,
    /// Children that ended before the worker that made them could say who they are.
    ended_early: Vec<(i32, Ended)>,
    buffers: Buffers,
    next_connection: u64,
    shutting_down: bool,
}

/// A server.
struct Connection {
    id: u64,
    fd: OwnedFd,
}

/// Whom to answer: a connection, and the number of the request there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    connection: u64,
    request: u64,
}

/// A worker that has not reported yet.
struct Worker {
    report: OwnedFd,
    caller: Caller,
    purpose: Purpose,
}

enum Purpose {
    Start { container: String },
    Exec { container: String },
}

/// A process run in a container, other than its first.
struct RunningExec {
    caller: Caller,
    container: String,
    pid: i32,
}

/// A connection to a port of the pod that is not established yet.
struct Dial {
    fd: OwnedFd,
    caller: Caller,
    port: u16,
    then_ipv6: bool,
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    exit_code: i32,
    signal: Option<i32>,
}

/// Something `poll` can report. Connections by their id, containers and so on by their place: nothing is
/// removed between a `poll` and the handling of what it reported, except where `handle` looks again.
#[derive(Debug, Clone)]
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Worker(Caller),
    Dial(Caller),
    Container { id: String, index: usize },
}

impl Shim {
    fn finished(&self) -> bool {
        let running = self
            .containers
            .iter()
            .any(|c| !matches!(c.life, Life::Ended { .. }));
        self.shutting_down && !running
    }

    fn wait(&self) -> rustix::io::Result<Vec<(Source, PollFlags)>> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Listener, self.listener.as_fd(), PollFlags::IN),
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
        ];
        sources.extend(
            self.connections
                .iter()
                .map(|c| (Source::Connection(c.id), c.fd.as_fd(), PollFlags::IN)),
        );
        sources.extend(
            self.workers
                .iter()
                .map(|w| (Source::Worker(w.caller), w.report.as_fd(), PollFlags::IN)),
        );
        sources.extend(
            self.dials
                .iter()
                .map(|d| (Source::Dial(d.caller), d.fd.as_fd(), PollFlags::OUT)),
        );
        for container in &self.containers {
            sources.extend(container.interests().map(|(index, fd, flags)| {
                (
                    Source::Container {
                        id: container.id.clone(),
                        index,
                    },
                    fd,
                    flags,
                )
            }));
        }
        let mut fds: Vec<_> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
        let ready = sources
            .into_iter()
            .zip(&fds)
            .map(|((source, ..), fd)| (source, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.reap(),
            Source::Connection(id) => self.receive(id),
            Source::Worker(caller) => self.worker_reported(caller),
            Source::Dial(caller) => self.dialled(caller),
            Source::Container { id, index } => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
                    container.ready(index, flags, &mut self.buffers);
                }
            }
        }
    }

    fn accept(&mut self) {
        match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(fd) => self.add_connection(fd),
            // The peer has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => complain(&error),
        }
    }

    fn add_connection(&mut self, fd: OwnedFd) {
        if let Err(error) = rustix::io::ioctl_fionbio(&fd, true) {
            return complain(&error);
        }
        self.next_connection += 1;
        self.connections.push(Connection {
            id: self.next_connection,
            fd,
        });
    }

    fn drop_connection(&mut self, id: u64) {
        self.connections.retain(|connection| connection.id != id);
        // Processes started by `exec` live on, as they do with containerd; nobody asks for their end.
        self.execs.retain(|exec| exec.caller.connection != id);
        self.dials.retain(|dial| dial.caller.connection != id);
    }

    fn receive(&mut self, id: u64) {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else {
            return;
        };
        let (length, fds) =
            match socket::receive(&connection.fd, &mut self.buffers.input[..MAX_MESSAGE_BYTES]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok((0, _)) | Err(_) => return self.drop_connection(id),
                Ok(received) => received,
            };
        match serde_json::from_slice::<Request>(&self.buffers.input[..length]) {
            Ok(request) => {
                let caller = Caller {
                    connection: id,
                    request: request.id,
                };
                if let Some(result) = self.carry_out(caller, request.op, fds).transpose() {
                    let (result, fd) = match result {
                        Ok((answer, fd)) => (Ok(answer), fd),
                        Err(failure) => (Err(failure), None),
                    };
                    self.reply(caller, result, fd);
                }
            }
            // Without the number of the request nobody could be told.
            Err(error) => {
                complain(&error);
                self.drop_connection(id);
            }
        }
    }

    fn send(&mut self, connection: u64, message: &Message, fds: &[BorrowedFd<'_>]) {
        let Some(to) = self.connections.iter().find(|c| c.id == connection) else {
            return;
        };
        if let Err(error) = socket::send(&to.fd, message, fds) {
            complain(&error);
            self.drop_connection(connection);
        }
    }

    /// `false`: whoever asked has gone.
    fn reply(&mut self, caller: Caller, result: Result<Answer, Failure>, fd: Option<OwnedFd>) -> bool {
        let message = Message::Reply {
            id: caller.request,
            result,
        };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        self.send(caller.connection, &message, &fds);
        self.connections
            .iter()
            .any(|connection| connection.id == caller.connection)
    }

    /// `None`: the answer comes later.
    fn carry_out(
        &mut self,
        caller: Caller,
        op: Op,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<(Answer, Option<OwnedFd>)>, Failure> {
        let mut fds = fds.into_iter();
        match op {
            Op::Hello { oldest, newest } => {
                let version = agree(oldest, newest)
                    .ok_or_else(|| Failure::state(format!("no common version in {oldest}..={newest}")))?;
                return Ok(Some((Answer::Hello { version }, None)));
            }
            Op::Start(start) => return self.start(caller, &start, fds).map(|()| None),
            Op::Exec(exec) => return self.exec(caller, &exec, fds).map(|()| None),
            Op::Connect { port } => return self.dial(caller, port, false).map(|()| None),
            Op::Signal {
                container,
                signal,
                all,
            } => self.container(&container)?.signal(signal, all)?,
            Op::SignalExec { exec, signal } => self.signal_exec(caller.connection, exec, signal)?,
            Op::Attach {
                container,
                stdin,
                stdout,
                stderr,
            } => {
                let wanted = [(stdout, Stream::Stdout), (stderr, Stream::Stderr)];
                let wanted = wanted
                    .into_iter()
                    .filter(|(wanted, _)| *wanted)
                    .map(|(_, stream)| stream);
                let sinks: Vec<_> = wanted.zip(&mut fds).collect();
                let stdin = self.container(&container)?.attach(stdin, sinks)?;
                return Ok(Some((Answer::Done, stdin)));
            }
            Op::Resize {
                container,
                rows,
                columns,
            } => self.container(&container)?.resize(rows, columns)?,
            Op::ReopenLog { container } => self.container(&container)?.reopen_log()?,
            Op::List => {
                // Of what was started for a server that has gone, this is how the next one hears.
                self.lists.push(caller);
                self.answer_lists();
                return Ok(None);
            }
            Op::Remove { container } => self.remove(&container)?,
            Op::Shutdown => self.shut_down(),
        }
        Ok(Some((Answer::Done, None)))
    }

    /// Answers who wants to know all containers, unless it is not yet known which there are.
    fn answer_lists(&mut self) {
        let is_here = |id| self.connections.iter().any(|connection| connection.id == id);
        let for_nobody = |worker: &Worker| {
            matches!(worker.purpose, Purpose::Start { .. }) && !is_here(worker.caller.connection)
        };
        if self.workers.iter().any(for_nobody) {
            return;
        }
        for caller in std::mem::take(&mut self.lists) {
            let states = self.containers.iter().filter_map(Container::state).collect();
            self.reply(caller, Ok(Answer::Containers(states)), None);
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container, Failure> {
        let found = self.containers.iter_mut().find(|container| container.id == id);
        found.ok_or_else(|| Failure::not_found(format!("no container {id}")))
    }

    fn start(
        &mut self,
        caller: Caller,
        start: &Start,
        mut fds: impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Failure> {
        if self.shutting_down {
            return Err(Failure::state("the pod is being shut down"));
        }
        if self
            .containers
            .iter()
            .any(|container| container.id == start.container)
        {
            return Err(Failure::state(format!("container {} exists", start.container)));
        }
        let mut next = |wanted: bool| wanted.then(|| fds.next()).flatten();
        let missing = || Failure::other("a descriptor is missing");
        let mntns = next(true).ok_or_else(missing)?;
        let dir = next(true).ok_or_else(missing)?;
        let log_dir = next(start.fds.log_dir);
        let oom_counter = next(start.fds.oom_counter);
        let cgroup = next(start.fds.cgroup);
        let files = Files {
            dir,
            log_dir,
            oom_counter,
            cgroup,
        };
        let failed = |error: io::Error| Failure::other(format!("start {}: {error}", start.container));
        let (container, streams) = Container::prepare(start, files).map_err(failed)?;
        let task = Task::Start { start, streams };
        let cgroup = container.v2_cgroup();
        let report = worker::spawn(task, mntns.as_fd(), cgroup, self.own_pid_ns).map_err(failed)?;
        self.containers.push(container);
        let purpose = Purpose::Start {
            container: start.container.clone(),
        };
        self.workers.push(Worker {
            report,
            caller,
            purpose,
        });
        Ok(())
    }

    fn exec(
        &mut self,
        caller: Caller,
        exec: &Exec,
        mut fds: impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Failure> {
        let own_pid_ns = self.own_pid_ns;
        let container = self.container(&exec.container)?;
        if !matches!(container.life, Life::Running { .. }) {
            return Err(Failure::state(format!(
                "container {} is not running",
                exec.container
            )));
        }
        let missing = || Failure::other("a descriptor is missing");
        let mntns = fds.next().ok_or_else(missing)?;
        let process = fds.next().ok_or_else(missing)?;
        let streams = match exec.tty {
            true => Streams::default(),
            false => Streams {
                stdin: fds.next(),
                stdout: fds.next(),
                stderr: fds.next(),
            },
        };
        let (bundle, dies_with_parent) = (&container.bundle, container.dies_with_parent);
        let task = Task::Exec {
            exec,
            bundle,
            dies_with_parent,
            process,
            streams,
        };
        let report = worker::spawn(task, mntns.as_fd(), container.v2_cgroup(), own_pid_ns)
            .map_err(|error| Failure::other(format!("exec in {}: {error}", exec.container)))?;
        let purpose = Purpose::Exec {
            container: exec.container.clone(),
        };
        self.workers.push(Worker {
            report,
            caller,
            purpose,
        });
        Ok(())
    }

    fn worker_reported(&mut self, caller: Caller) {
        let Some(at) = self.workers.iter().position(|worker| worker.caller == caller) else {
            return;
        };
        let worker = self.workers.swap_remove(at);
        let (report, fd) = read_report(&worker.report, &mut self.buffers.input);
        match worker.purpose {
            Purpose::Start { container } => self.started(caller, &container, report, fd),
            Purpose::Exec { container } => self.exec_started(caller, container, report, fd),
        }
        self.answer_lists();
        if self.workers.is_empty() {
            self.ended_early.clear();
        }
    }

    fn started(&mut self, caller: Caller, id: &str, report: Report, terminal: Option<OwnedFd>) {
        let Some(at) = self.containers.iter().position(|container| container.id == id) else {
            return;
        };
        match report {
            Report::Failed(failure) => {
                // A worker that was killed may have left a process that waits to be started.
                self.containers.swap_remove(at).kill_rest();
                self.reply(caller, Err(failure), None);
            }
            Report::Running {
                pid,
                host_pid,
                warnings,
            } => {
                let started_at = Timestamp::now();
                let container = &mut self.containers[at];
                container.life = Life::Running {
                    pid,
                    host_pid,
                    started_at,
                    began: Instant::now(),
                };
                if let Some(Err(error)) = terminal.map(|master| container.set_terminal(master)) {
                    complain(&error);
                }
                let answer = Answer::Started {
                    pid: host_pid,
                    started_at,
                    warnings,
                };
                // Where the server has gone, the next one asks which containers there are.
                self.reply(caller, Ok(answer), None);
                if let (true, Ok(container)) = (self.shutting_down, self.container(id)) {
                    let _ = container.signal(libc::SIGKILL, true);
                }
                self.catch_up(pid);
            }
        }
    }

    fn exec_started(&mut self, caller: Caller, container: String, report: Report, fd: Option<OwnedFd>) {
        match report {
            Report::Failed(failure) => {
                self.reply(caller, Err(failure), None);
            }
            Report::Running { pid, warnings, .. } => {
                if !self.reply(caller, Ok(Answer::ExecStarted { warnings }), fd) {
                    // It has not been waited for, so the number cannot mean anyone else.
                    let _ = send_signal(pid, libc::SIGKILL);
                }
                self.execs.push(RunningExec {
                    caller,
                    container,
                    pid,
                });
                self.catch_up(pid);
            }
        }
    }

    /// A child that ended before it was known has been waited for; deal with it now.
    fn catch_up(&mut self, pid: i32) {
        if let Some(at) = self.ended_early.iter().position(|(early, _)| *early == pid) {
            let (pid, ended) = self.ended_early.swap_remove(at);
            self.child_ended(pid, ended);
        }
    }

    fn signal_exec(&self, connection: u64, exec: u64, signal: i32) -> Result<(), Failure> {
        let caller = Caller {
            connection,
            request: exec,
        };
        let exec = self.execs.iter().find(|exec| exec.caller == caller);
        let exec = exec.ok_or_else(|| Failure::not_found("the process has ended"))?;
        // It has not been waited for, so the number cannot mean anyone else.
        send_signal(exec.pid, signal)
            .map_err(|error| Failure::other(format!("signal a process in {}: {error}", exec.container)))
    }

    fn remove(&mut self, id: &str) -> Result<(), Failure> {
        let at = self.containers.iter().position(|container| container.id == id);
        match at.map(|at| (at, &self.containers[at].life)) {
            // Told again after a restart of the server, or never started.
            None => Ok(()),
            Some((at, Life::Ended { .. })) => {
                self.containers.swap_remove(at);
                Ok(())
            }
            Some(_) => Err(Failure::state(format!("container {id} has not ended"))),
        }
    }

    fn shut_down(&mut self) {
        self.shutting_down = true;
        for container in &self.containers {
            // One that has ended meanwhile needs no signal; one that is starting gets it when it runs.
            let _ = container.signal(libc::SIGKILL, true);
        }
    }

    fn reap(&mut self) {
        // Signals of one kind are merged while pending, so the count says nothing.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (
                    pid,
                    Ended {
                        exit_code: code,
                        signal: None,
                    },
                ),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let signal = signal as i32;
                    (
                        pid,
                        Ended {
                            exit_code: 128 + signal,
                            signal: Some(signal),
                        },
                    )
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.child_ended(pid.as_raw(), ended);
        }
    }

    fn child_ended(&mut self, pid: i32, ended: Ended) {
        if let Some(container) = self
            .containers
            .iter_mut()
            .find(|container| container.is_running(pid))
        {
            let exit = container.ended(ended.exit_code, ended.signal, &mut self.buffers);
            let event = Event::ContainerExited {
                container: container.id.clone(),
                exit,
            };
            let everyone: Vec<_> = self.connections.iter().map(|connection| connection.id).collect();
            for connection in everyone {
                self.send(connection, &Message::Event(event.clone()), &[]);
            }
        } else if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
            let exec = self.execs.swap_remove(at);
            let event = Event::ExecExited {
                exec: exec.caller.request,
                exit_code: ended.exit_code,
            };
            self.send(exec.caller.connection, &Message::Event(event), &[]);
        } else if !self.workers.is_empty() {
            self.ended_early.push((pid, ended));
        }
    }

    fn dial(&mut self, caller: Caller, port: u16, ipv6: bool) -> Result<(), Failure> {
        let (family, address) = match ipv6 {
            false => (AddressFamily::INET, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            true => (
                AddressFamily::INET6,
                SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            ),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let connected = rustix::net::socket_with(family, SocketType::STREAM, flags, None).and_then(|fd| {
            match rustix::net::connect(&fd, &address) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
                Err(error) => Err(error),
            }
        });
        match connected {
            Ok(fd) => {
                self.dials.push(Dial {
                    fd,
                    caller,
                    port,
                    then_ipv6: !ipv6,
                });
                Ok(())
            }
            Err(_) if !ipv6 => self.dial(caller, port, true),
            Err(error) => Err(refused(port, error)),
        }
    }

    fn dialled(&mut self, caller: Caller) {
        let Some(at) = self.dials.iter().position(|dial| dial.caller == caller) else {
            return;
        };
        let dial = self.dials.swap_remove(at);
        let outcome = rustix::net::sockopt::socket_error(&dial.fd).and_then(|outcome| outcome);
        let result = match outcome {
            Ok(()) => {
                self.reply(caller, Ok(Answer::Done), Some(dial.fd));
                return;
            }
            Err(_) if dial.then_ipv6 => self.dial(caller, dial.port, true),
            Err(error) => Err(refused(dial.port, error)),
        };
        if let Err(failure) = result {
            self.reply(caller, Err(failure), None);
        }
    }
}

/// In Go's words, which clients of port-forwarding know.
fn refused(port: u16, error: Errno) -> Failure {
    let text = io::Error::from(error).to_string().to_lowercase();
    let text = text.split(" (os error").next().unwrap_or_default();
    Failure::other(format!("dial tcp 127.0.0.1:{port}: connect: {text}"))
}

fn read_report(socket: &OwnedFd, buffer: &mut [u8]) -> (Report, Option<OwnedFd>) {
    let received = socket::receive(socket, buffer);
    let report = match &received {
        Ok((0, _)) => {
            Err("the process that makes the container was killed, perhaps for want of memory".to_owned())
        }
        Ok((length, _)) => serde_json::from_slice(&buffer[..*length]).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let fd = received.ok().and_then(|(_, mut fds)| fds.pop());
    (
        report.unwrap_or_else(|error| Report::Failed(Failure::other(error))),
        fd,
    )
}
