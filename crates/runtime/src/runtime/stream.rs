//! The server's ends of a process' standard streams: pipes, or one terminal.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;

/// What a process reads as its standard input. Dropping it ends the input, except of a terminal.
#[derive(Debug)]
pub struct Input(InputKind);

#[derive(Debug)]
enum InputKind {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

/// What a process writes. It ends when nobody in the container holds the other end any more.
#[derive(Debug)]
pub struct Output(OutputKind);

#[derive(Debug)]
enum OutputKind {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
}

impl Input {
    pub(super) fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(InputKind::Pipe(pipe::Sender::from_owned_fd(fd)?)))
    }

    pub(super) fn terminal(terminal: &Arc<Terminal>) -> Self {
        Self(InputKind::Terminal(Arc::clone(terminal)))
    }
}

impl Output {
    pub(super) fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(OutputKind::Pipe(pipe::Receiver::from_owned_fd(fd)?)))
    }

    pub(super) fn terminal(terminal: &Arc<Terminal>) -> Self {
        Self(OutputKind::Terminal(Arc::clone(terminal)))
    }

    /// Reads what is there without waiting; `None` when there is nothing more for now, or ever.
    pub(super) fn try_read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let read = match &self.0 {
            // Not the pipe's own `try_read`: that looks at what the event loop knows so far.
            OutputKind::Pipe(pipe) => rustix::io::read(pipe, buffer).map_err(io::Error::from),
            OutputKind::Terminal(terminal) => terminal.read(buffer),
        };
        read.ok().filter(|length| *length > 0)
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            InputKind::Pipe(pipe) => Pin::new(pipe).poll_write(cx, data),
            InputKind::Terminal(terminal) => terminal.poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            OutputKind::Pipe(pipe) => Pin::new(pipe).poll_read(cx, buf),
            OutputKind::Terminal(terminal) => terminal.poll_read(cx, buf),
        }
    }
}

/// The master of a terminal.
#[derive(Debug)]
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Arc<Self>> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Arc::new(Self(crate::ready::watch(master, interest)?)))
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), size)?)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.0.get_ref(), buffer) {
            // The last process that had the terminal open has gone.
            Err(Errno::IO) => Ok(0),
            other => Ok(other?),
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(read) = guard.try_io(|_| self.read(buf.initialize_unfilled())) {
                buf.advance(read?);
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                return Poll::Ready(written);
            }
        }
    }
}

/// A pipe of which neither end survives an `exec`: the readable end, and the writable one.
pub(super) fn pipe_ends() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}
