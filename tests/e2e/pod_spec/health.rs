//! A gRPC health service on a machine: HTTP/2 and protobuf by hand, as much as a probe needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};
use stead_tests::Machine;

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// Flags of frames.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The service. It listens until the tests end.
pub(super) struct Health {
    pub(super) port: u16,
    status: Arc<AtomicU8>,
}

impl Health {
    /// `SERVING`, of `HealthCheckResponse.ServingStatus`.
    pub(super) const SERVING: u8 = 1;
    /// `NOT_SERVING`.
    pub(super) const NOT_SERVING: u8 = 2;

    /// Serves in the network of a machine.
    pub(super) fn serve(machine: &Machine) -> Result<Self> {
        let listener = machine.inside(|| TcpListener::bind(("0.0.0.0", 0)).context("listen"))?;
        let port = listener.local_addr()?.port();
        let status = Arc::new(AtomicU8::new(Self::NOT_SERVING));
        let shared = Arc::clone(&status);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let status = Arc::clone(&shared);
                // A client that goes away is no fault.
                std::thread::spawn(move || drop(answer(client, &status)));
            }
        });
        Ok(Self { port, status })
    }

    /// What it says from now on.
    pub(super) fn set(&self, status: u8) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn answer(mut client: TcpStream, status: &AtomicU8) -> std::io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    client.read_exact(&mut preface)?;
    frame(&mut client, SETTINGS, 0, 0, &[])?;
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        client.read_exact(&mut body)?;
        let stream = u32::from_be_bytes(stream);
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let body = if kind == PING { body.as_slice() } else { &[] };
                frame(&mut client, kind, ACK, 0, body)?;
            }
            DATA | HEADERS if flags & END_STREAM != 0 => {
                let message = [0x08, status.load(Ordering::SeqCst)];
                // `:status: 200` is in HTTP/2's table; others are written out.
                let head = [&[0x88][..], &header("content-type", "application/grpc")].concat();
                frame(&mut client, HEADERS, END_HEADERS, stream, &head)?;
                let body = [&[0, 0, 0, 0, 2][..], &message].concat();
                frame(&mut client, DATA, 0, stream, &body)?;
                let end = header("grpc-status", "0");
                frame(&mut client, HEADERS, END_HEADERS | END_STREAM, stream, &end)?;
            }
            _ => {}
        }
    }
}

fn frame(client: &mut TcpStream, kind: u8, flags: u8, stream: u32, body: &[u8]) -> std::io::Result<()> {
    let [_, a, b, c] = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let head = [&[a, b, c, kind, flags][..], &stream.to_be_bytes()].concat();
    client.write_all(&[head.as_slice(), body].concat())
}

/// A header that is in no table, both name and value as they are.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}
