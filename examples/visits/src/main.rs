//! visits: counts its visits in a file, and answers how many there were.
//!
//! The app of the first example: each replica of a StatefulSet runs one, and counts alone on a disk of its
//! own. It serves plain HTTP, one request per connection:
//!
//! - `GET /` appends a line to `$DATA_DIR/visits` and answers, say, `visits-0: 5 visits`.
//! - `GET /healthz` answers `ok` and counts nothing; it is for probes.
//!
//! On SIGTERM or SIGINT it accepts no more clients, answers those it has, and ends with 0. That also holds
//! where it is a container's first process, for which the kernel would ignore both.

mod http;
mod ledger;
mod server;

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use ledger::Ledger;
use nix::sys::signal::{SigSet, Signal};
use server::App;

const HELP: &str = "\
visits: counts its visits in a file, and answers how many there were

usage: visits [--help]

  GET /         appends a line to $DATA_DIR/visits, answers \"NAME: N visits\"
  GET /healthz  answers \"ok\" and counts nothing

environment:
  DATA_DIR  where the visits are kept           (default /data)
  PORT      where to listen, on all addresses   (default 8080)
  HOSTNAME  the name to answer with             (default visits)
";

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        None => {}
        Some("--help" | "-h") => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            complain(format_args!("unknown argument {other:?}; see visits --help"));
            return ExitCode::from(2);
        }
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(message);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    // Before any thread is started, so that all inherit it: the signals wait until they are asked for.
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block()
        .map_err(|error| format!("block signals: {error}"))?;

    let port = setting("PORT", "8080");
    let port: u16 = port
        .parse()
        .map_err(|_| format!("PORT is a number up to 65535, not {port:?}"))?;
    let dir = setting("DATA_DIR", "/data");
    let ledger = Ledger::open(dir.as_ref()).map_err(|error| format!("open {dir}/visits: {error}"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .map_err(|error| format!("listen on port {port}: {error}"))?;

    let name = setting("HOSTNAME", "visits");
    say(format_args!(
        "{name}: listening on port {port}, {} visits so far",
        ledger.count()
    ));
    let app = Arc::new(App {
        name,
        ledger,
        log: |line| say(line),
    });
    let server = server::start(listener, Arc::clone(&app)).map_err(|error| format!("start: {error}"))?;
    let signal = ends
        .wait()
        .map_err(|error| format!("wait for a signal: {error}"))?;
    say(format_args!("{}: {signal}, ending", app.name));
    server.stop();
    Ok(())
}

/// An environment variable; an empty one counts as unset.
fn setting(name: &str, default: &str) -> String {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// A line for the container's log. A log that nobody reads is no reason to fail.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "visits: {line}");
}
