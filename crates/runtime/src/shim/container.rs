//! A container as its shim holds it: the ends of its streams, its log, the clients attached to it, and in
//! the end how it ended.
//!
//! Output goes to the log and, as it is, to whoever is attached. A client that does not read holds the
//! stream up, as with containerd: the container's output is not read further until it does, so a client
//! loses nothing. The container notices when its pipe is full. A client that has gone is dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::log::{Lines, LogFile, Stream};
use super::protocol::{ContainerState, Failure, Io, Start};
use super::worker::Streams;
use crate::cgroup;
use crate::record::{self, ExitRecord};

/// How much is read from a stream at a time: half of what a pipe holds.
const READ_BYTES: usize = 32 * 1024;
/// By this much clocks may differ without anyone having set one.
const NOT_SET: SignedDuration = SignedDuration::from_secs(2);

/// Room to read into and to build log entries in, shared by all containers.
pub(crate) struct Buffers {
    pub(crate) input: Vec<u8>,
    pub(crate) entries: Vec<u8>,
}

/// The files of a container that the server opened for its shim.
pub(crate) struct Files {
    /// The container's own directory.
    pub(crate) dir: OwnedFd,
    pub(crate) log_dir: Option<OwnedFd>,
    pub(crate) oom_counter: Option<OwnedFd>,
    pub(crate) cgroup: Option<OwnedFd>,
}

/// A container that is being started, runs, or has ended and is not yet removed.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) own_pid_namespace: bool,
    pub(crate) dies_with_parent: bool,
    pub(crate) life: Life,
    dir: OwnedFd,
    oom_counter: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
    cgroup_is_v2: bool,
    log: Option<LogFile>,
    outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
    tty: bool,
    stdin_once: bool,
    sinks: Vec<Sink>,
}

/// Where a container is in its life.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    Starting,
    Running {
        pid: i32,
        host_pid: i32,
        started_at: Timestamp,
        /// The same moment by a clock that nobody sets.
        began: Instant,
    },
    Ended {
        host_pid: i32,
        exit: ExitRecord,
    },
}

/// Our end of one of the container's streams; `None` after its end.
struct Output {
    fd: Option<OwnedFd>,
    stream: Stream,
    lines: Lines,
}

/// A client's end of one of the container's streams.
struct Sink {
    stream: Stream,
    fd: OwnedFd,
    /// What it has not taken yet.
    pending: Vec<u8>,
    /// Nobody holds the other end any more.
    gone: bool,
}

impl Container {
    /// Prepares a container for its worker: the container's ends of the streams go to the worker.
    pub(crate) fn prepare(start: &Start, files: Files) -> io::Result<(Self, Streams)> {
        let (outputs, stdin, streams) = pipes(&start.io)?;
        let log = match (&start.io.log, files.log_dir) {
            (Some(spec), Some(dir)) => Some(LogFile::open(dir, spec.clone())?),
            _ => None,
        };
        let container = Self {
            id: start.container.clone(),
            bundle: start.bundle.clone(),
            own_pid_namespace: start.own_pid_namespace,
            dies_with_parent: start.dies_with_parent,
            life: Life::Starting,
            dir: files.dir,
            oom_counter: files.oom_counter,
            cgroup: files.cgroup,
            cgroup_is_v2: start.cgroup_is_v2,
            log,
            outputs,
            stdin,
            tty: start.io.tty,
            stdin_once: start.io.stdin_once,
            sinks: Vec::new(),
        };
        Ok((container, streams))
    }

    /// The terminal libcontainer made for it.
    pub(crate) fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
        self.outputs = vec![Output::new(master, Stream::Stdout)];
        Ok(())
    }

    pub(crate) fn is_running(&self, wanted: i32) -> bool {
        matches!(self.life, Life::Running { pid, .. } if pid == wanted)
    }

    /// What a server that has just connected needs to know; a container that has not started is not listed.
    pub(crate) fn state(&self) -> Option<ContainerState> {
        let container = self.id.clone();
        match &self.life {
            Life::Starting => None,
            Life::Running {
                host_pid, started_at, ..
            } => Some(ContainerState {
                container,
                pid: *host_pid,
                started_at: *started_at,
                exit: None,
            }),
            Life::Ended { host_pid, exit } => Some(ContainerState {
                container,
                pid: *host_pid,
                started_at: exit.started_at,
                exit: Some(exit.clone()),
            }),
        }
    }

    /// Sends a signal to the first process, or to all.
    pub(crate) fn signal(&self, signal: i32, all: bool) -> Result<(), Failure> {
        let Life::Running { pid, .. } = self.life else {
            return Err(Failure::state(format!("container {} is not running", self.id)));
        };
        // Without a PID namespace of their own, the others would outlive the first.
        let everyone = all && !(self.own_pid_namespace && signal == libc::SIGKILL);
        if let (true, Some(cgroup)) = (everyone, &self.cgroup) {
            cgroup::signal_all(cgroup, signal)
                .map_err(|error| Failure::other(format!("signal the processes of {}: {error}", self.id)))?;
        }
        // It has not been waited for, so the number cannot mean anyone else.
        match send_signal(pid, signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(Failure::other(format!("signal container {}: {error}", self.id))),
        }
    }

    /// Kills whatever is in its cgroup, the first process or not.
    pub(crate) fn kill_rest(&self) {
        if let Some(cgroup) = &self.cgroup {
            // A cgroup that has gone has no processes; and the server looks again before it removes one.
            let _ = cgroup::signal_all(cgroup, libc::SIGKILL);
        }
    }

    /// The directory of the cgroup that its processes are born into.
    pub(crate) fn v2_cgroup(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup
            .as_ref()
            .filter(|_| self.cgroup_is_v2)
            .map(AsFd::as_fd)
    }

    /// What to wait for. The numbers mean [`Self::ready`]'s `index`.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        let outputs = self.outputs.iter().enumerate().filter_map(|(index, output)| {
            let held_up = self.sinks.iter().any(|sink| sink.holds_up(output.stream));
            let fd = output.fd.as_ref().filter(|_| !held_up)?;
            Some((index, fd.as_fd(), PollFlags::IN))
        });
        let sinks = self.sinks.iter().enumerate().map(|(index, sink)| {
            let flags = if sink.pending.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            (self.outputs.len() + index, sink.fd.as_fd(), flags)
        });
        outputs.chain(sinks)
    }

    /// Something that [`Self::interests`] named can be read or written. Bounded: one read, or one write.
    pub(crate) fn ready(&mut self, index: usize, flags: PollFlags, buffers: &mut Buffers) {
        if index < self.outputs.len() {
            self.pump(index, buffers);
        } else if let Some(sink) = self.sinks.get_mut(index - self.outputs.len()) {
            sink.gone |= flags.intersects(PollFlags::ERR | PollFlags::HUP);
            sink.flush();
        }
    }

    /// Drops the clients that have gone, and after the end those who have been given everything.
    pub(crate) fn sweep(&mut self) {
        let ended = matches!(self.life, Life::Ended { .. });
        self.sinks
            .retain(|sink| !(sink.gone || ended && sink.pending.is_empty()));
    }

    /// One read from a stream; `false` when there is nothing more for now.
    fn pump(&mut self, index: usize, buffers: &mut Buffers) -> bool {
        let output = &mut self.outputs[index];
        let Some(fd) = &output.fd else { return false };
        match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffers.input[..READ_BYTES])) {
            Err(Errno::AGAIN) => false,
            // The end; of a terminal it is EIO.
            Ok(0) | Err(_) => {
                self.finish(index, buffers);
                false
            }
            Ok(length) => {
                let data = &buffers.input[..length];
                if let Some(log) = &mut self.log {
                    write_log(log, &mut output.lines, data, &mut buffers.entries);
                }
                let stream = output.stream;
                self.sinks
                    .iter_mut()
                    .filter(|sink| sink.stream == stream)
                    .for_each(|sink| sink.take(data));
                true
            }
        }
    }

    /// A stream has ended, or is taken to have.
    fn finish(&mut self, index: usize, buffers: &mut Buffers) {
        let now = Timestamp::now();
        let output = &mut self.outputs[index];
        output.fd = None;
        buffers.entries.clear();
        output.lines.finish(now, &mut buffers.entries);
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(&buffers.entries, now)
        {
            super::complain(&error);
        }
    }

    /// The first process has ended: reads what is left, and writes the record beside the container.
    pub(crate) fn ended(&mut self, exit_code: i32, signal: Option<i32>, buffers: &mut Buffers) -> ExitRecord {
        let (host_pid, started_at, ran_for) = match self.life {
            Life::Running {
                host_pid,
                started_at,
                began,
                ..
            } => (host_pid, started_at, began.elapsed()),
            Life::Starting | Life::Ended { .. } => (0, Timestamp::now(), Duration::ZERO),
        };
        if !self.own_pid_namespace {
            self.kill_rest();
        }
        for index in 0..self.outputs.len() {
            while self.pump(index, buffers) {}
        }
        // A process outside the container may still hold one open.
        for index in 0..self.outputs.len() {
            self.finish(index, buffers);
        }
        self.stdin = None;
        let finished_at = Timestamp::now();
        let exit = ExitRecord {
            exit_code,
            signal,
            oom_killed: self
                .oom_counter
                .as_ref()
                .is_some_and(|file| cgroup::oom_kills(file) > 0),
            started_at: beginning(started_at, finished_at, ran_for),
            finished_at,
        };
        if let Err(error) = record::write_json(&self.dir, record::EXIT_FILE, &exit) {
            super::complain(&error);
        }
        self.life = Life::Ended {
            host_pid,
            exit: exit.clone(),
        };
        exit
    }

    /// Lets a client have the output from now on; gives the end of the standard input to write to.
    pub(crate) fn attach(
        &mut self,
        stdin: bool,
        sinks: impl IntoIterator<Item = (Stream, OwnedFd)>,
    ) -> Result<Option<OwnedFd>, Failure> {
        let failed = |error: io::Error| Failure::other(format!("attach: {error}"));
        if !matches!(self.life, Life::Running { .. }) {
            return Err(Failure::state(format!("container {} is not running", self.id)));
        }
        for (stream, fd) in sinks {
            rustix::io::ioctl_fionbio(&fd, true).map_err(|error| failed(error.into()))?;
            self.sinks.push(Sink {
                stream,
                fd,
                pending: Vec::new(),
                gone: false,
            });
        }
        if !stdin {
            return Ok(None);
        }
        if self.tty {
            return self
                .terminal()
                .map(|fd| fd.try_clone_to_owned().map(Some).map_err(failed))?;
        }
        match (&self.stdin, self.stdin_once) {
            (None, _) => Ok(None),
            (Some(_), true) => Ok(self.stdin.take()),
            (Some(fd), false) => fd.try_clone().map(Some).map_err(failed),
        }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<(), Failure> {
        if !self.tty {
            return Err(Failure::state(format!("container {} has no terminal", self.id)));
        }
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(self.terminal()?, size)
            .map_err(|error| Failure::other(format!("resize the terminal of {}: {error}", self.id)))
    }

    fn terminal(&self) -> Result<BorrowedFd<'_>, Failure> {
        let output = self.outputs.first().and_then(|output| output.fd.as_ref());
        output
            .map(AsFd::as_fd)
            .ok_or_else(|| Failure::state(format!("container {} has ended", self.id)))
    }

    pub(crate) fn reopen_log(&mut self) -> Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.reopen()
            .map_err(|error| Failure::other(format!("reopen the log of {}: {error}", self.id)))
    }
}

/// When a container began, by the clock as it was at its end. If the clock was set meanwhile that is another
/// time than it was then: how long the container ran decides about its back-off.
fn beginning(started_at: Timestamp, finished_at: Timestamp, ran_for: Duration) -> Timestamp {
    let Ok(ran_for) = SignedDuration::try_from(ran_for) else {
        return started_at;
    };
    let set_by = finished_at.duration_since(started_at) - ran_for;
    if set_by.abs() < NOT_SET {
        return started_at;
    }
    finished_at.checked_sub(ran_for).unwrap_or(started_at)
}

fn write_log(log: &mut LogFile, lines: &mut Lines, mut data: &[u8], entries: &mut Vec<u8>) {
    let now = Timestamp::now();
    while !data.is_empty() {
        entries.clear();
        data = lines.push(data, now, entries);
        if let Err(error) = log.write(entries, now) {
            return super::complain(&error);
        }
    }
}

impl Output {
    fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self {
            fd: Some(fd),
            stream,
            lines: Lines::new(stream),
        }
    }
}

impl Sink {
    fn holds_up(&self, stream: Stream) -> bool {
        self.stream == stream && !self.pending.is_empty()
    }

    fn take(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
        self.flush();
    }

    fn flush(&mut self) {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &self.pending)) {
            Ok(written) if written < self.pending.len() => drop(self.pending.drain(..written)),
            Err(Errno::AGAIN) => {}
            outcome => {
                self.gone |= outcome.is_err();
                self.pending = Vec::new();
            }
        }
    }
}

/// Our ends of the outputs, our end of the input, and the container's ends.
fn pipes(io: &Io) -> io::Result<(Vec<Output>, Option<OwnedFd>, Streams)> {
    if io.tty {
        return Ok((Vec::new(), None, Streams::default()));
    }
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let (their_stdin, stdin) = match io.stdin {
        true => rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (Some(read), Some(write)))?,
        false => (None, None),
    };
    let outputs = vec![
        Output::new(stdout, Stream::Stdout),
        Output::new(stderr, Stream::Stderr),
    ];
    let streams = Streams {
        stdin: their_stdin,
        stdout: Some(their_stdout),
        stderr: Some(their_stderr),
    };
    Ok((outputs, stdin, streams))
}

/// A pipe of which only our end, the readable one, does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// `kill(2)`; a number that is no signal is refused by the kernel.
pub(crate) fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn how_long_a_container_ran_does_not_depend_on_who_sets_the_clock() {
        let began: Timestamp = "2026-01-01T12:00:00.3Z".parse().unwrap();
        let after = |seconds| began + SignedDuration::from_secs(seconds);
        let ran_for = Duration::from_secs(90);
        assert_eq!(beginning(began, after(90), ran_for), began);
        assert_eq!(
            beginning(began, after(91), ran_for),
            began,
            "clocks are not that exact"
        );
        for set_by in [3600, -3600, 7 * 24 * 3600] {
            let end = after(90 + set_by);
            let told = beginning(began, end, ran_for);
            assert_eq!(
                end.duration_since(told),
                SignedDuration::from_secs(90),
                "{set_by}"
            );
        }
    }
}
