//! Which ports of this machine its programs have. What the kernel lists is of the network namespace that the server
//! runs in, as the uplinks are.

use std::fs;

/// States of sockets in the kernel's lists: a TCP socket that listens, a UDP socket that is bound.
const LISTENS: &str = "0A";
const BOUND: &str = "07";

/// Whether no program waits at a port (of "TCP" or "UDP") for other machines. What cannot be told counts as free.
pub(super) fn is_free(protocol: &str, port: u16) -> bool {
    let (lists, state) = match protocol {
        "TCP" => (["/proc/net/tcp", "/proc/net/tcp6"], LISTENS),
        "UDP" => (["/proc/net/udp", "/proc/net/udp6"], BOUND),
        _ => return true,
    };
    let is_taken = |list: &str| {
        let sockets = fs::read_to_string(list).unwrap_or_default();
        sockets.lines().any(|line| waits(line, port, state))
    };
    !lists.into_iter().any(is_taken)
}

/// Whether a line is of a socket that waits at a port, and not only for this machine.
fn waits(line: &str, port: u16, state: &str) -> bool {
    let mut words = line.split_whitespace();
    let (Some(local), Some(found)) = (words.nth(1), words.nth(1)) else {
        return false;
    };
    let Some((address, local_port)) = local.split_once(':') else {
        return false;
    };
    found == state && u16::from_str_radix(local_port, 16) == Ok(port) && !is_loopback(address)
}

/// An address as its words in hexadecimal digits, each in the machine's byte order.
fn is_loopback(address: &str) -> bool {
    let words: Vec<u32> = (0..address.len() / 8)
        .filter_map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .collect();
    let is_v4_loopback = |word: u32| word.to_ne_bytes()[0] == 127;
    match words[..] {
        [word] => is_v4_loopback(word),
        [0, 0, 0, last] => last == 1_u32.to_be(),
        [0, 0, prefix, last] => prefix == 0xffff_u32.to_be() && is_v4_loopback(last),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_other_machines_takes_a_port() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000")
        };
        let v6 = |address: &str| format!("{address}:0050");
        for (local, state, expected) in [
            ("00000000:0050", "0A", true),
            ("0107A8C0:0050", "0A", true),
            ("0100007F:0050", "0A", false),
            ("00000000:0051", "0A", false),
            // A connection, not a listener.
            ("0107A8C0:0050", "01", false),
            (&v6("00000000000000000000000000000000"), "0A", true),
            (&v6("00000000000000000000000001000000"), "0A", false),
            (&v6("0000000000000000FFFF00000100007F"), "0A", false),
        ] {
            if cfg!(target_endian = "little") {
                assert_eq!(
                    waits(&line(local, state), 80, LISTENS),
                    expected,
                    "{local} {state}"
                );
            }
        }
        assert!(!waits("  sl  local_address rem_address   st", 80, LISTENS));
    }
}
