//! The host at the other end of a machine's uplink: the rest of the world, as far as the machine can tell.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespace outside. It has one address, and what this starts on it.
#[derive(Debug)]
pub struct Outside(File);

impl Outside {
    /// Its address; the machine's is the next one.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    pub(crate) fn new(namespace: File) -> Self {
        Self(namespace)
    }

    /// Serves one client on the returned address, by HTTP: tells it from where it came.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn serve_once(&self) -> Result<SocketAddr> {
        let listener = self.inside(|| TcpListener::bind((Self::ADDRESS, 0)))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            let Ok((mut client, peer)) = listener.accept() else {
                return;
            };
            // Closing before all has been read would break the connection off.
            let request = BufReader::new(&client).lines().map_while(Result::ok);
            let _ = request.take_while(|line| !line.is_empty()).count();
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}\n", peer.ip());
            let _ = client.write_all(answer.as_bytes());
        });
        Ok(address)
    }

    /// Is a DNS server that knows one name, with one address. It lives until the tests end.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn serve_name(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let socket = self.inside(|| UdpSocket::bind((Self::ADDRESS, 53)))?;
        let name = question(name);
        std::thread::spawn(move || {
            let mut query = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer(&query[..length], &name, address) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Ok(())
    }

    /// Does something in the namespace. What it opens there stays there.
    fn inside<T: Send>(&self, action: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
        in_network(&self.0, || action().context("outside"))
    }
}

/// Does something in a network namespace. What it opens there stays there.
pub(crate) fn in_network<T: Send>(namespace: &File, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    // A thread of its own: this one has to stay where it is.
    std::thread::scope(|scope| {
        let inside = || -> Result<T> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter a network namespace")?;
            action()
        };
        let joined = scope.spawn(inside).join();
        joined.map_err(|_| anyhow!("panicked in a network namespace"))?
    })
}

/// A name as DNS writes it.
fn question(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Answers a query for one name: with the address, with nothing for other types, or that there is no other
/// name.
fn answer(query: &[u8], name: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let end = HEADER + query.get(HEADER..)?.iter().position(|byte| *byte == 0)? + 1;
    let asked = query.get(HEADER..end)?;
    let kind = query.get(end..end + 2)?;
    let known = asked.eq_ignore_ascii_case(name);
    let has_answer = known && kind == [0, 1];
    let mut bytes = query.get(..2)?.to_vec();
    // A response, with recursion, and "no such domain" for what is not known.
    bytes.extend([0x85, if known { 0x80 } else { 0x83 }]);
    bytes.extend([0, 1, 0, u8::from(has_answer), 0, 0, 0, 0]);
    bytes.extend_from_slice(query.get(HEADER..end + 4)?);
    if has_answer {
        // The name asked for, A, IN, for a minute.
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(address.octets());
    }
    Some(bytes)
}
