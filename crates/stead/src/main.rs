//! The `stead` command: a cluster in one binary.
//!
//! Reading order: `cli` (what can be said), [`place`] (where a cluster lives), `serve` (what a cluster
//! is made of, and the only place that knows all the other crates), `control` (how the commands speak
//! with a running server), then a file per command. The program is also the shim of every pod and the
//! helper that unpacks layers: see [`stead_runtime::become_helper`].

mod cli;
mod cluster;
mod commands;
mod control;
mod kubeconfig;
mod log;
mod place;
mod progress;
mod serve;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // First of all, and before any thread exists.
    stead_runtime::become_helper();
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        // Whoever read the output has read enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where even that cannot be written, the exit code must do.
            let _ = writeln!(std::io::stderr(), "stead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The error itself, not one that lies behind it: a connection to the server that breaks is no success.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_output_that_nobody_reads_is_no_failure() {
        let broken = || Error::from(ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(broken())));
        assert!(!is_broken_pipe(
            &anyhow::Error::from(Error::other(broken())).context("load")
        ));
        assert!(!is_broken_pipe(&anyhow::anyhow!("other")));
    }
}
