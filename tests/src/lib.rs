//! What the end-to-end tests stand on: machines to run clusters on, clusters, and `kubectl` to talk to them.
//!
//! A [`Machine`] looks to a program like a computer of its own: with its own network, processes, mounts,
//! `/var/lib`, `/run` and home directory. So tests run side by side, touch nothing of the computer they run
//! on, and what a cluster leaves behind is found by looking at everything there is. A [`Cluster`] is a
//! `stead` on a machine. Nothing here knows how stead works inside: tests say what a user would type.
//!
//! Needs root, Debian's packages iproute2, nftables, curl and busybox-static, a `kubectl`, and the programs
//! under test (see [`artifacts`]).

pub mod api;
pub mod artifacts;
pub mod client;
mod cluster;
pub mod console;
pub mod kubectl;
mod leftovers;
pub mod lives;
mod machine;
mod outside;
mod program;
pub mod replay;
mod run;
mod stream;
mod words;

pub use cluster::Cluster;
pub use machine::Machine;
pub use outside::Outside;
pub use program::{Outcome, Program};
pub use run::{Test, main, on_a_cluster, on_a_machine, side_by_side};
pub use stream::Stream;
pub use words::words;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long a cluster may take for anything that is awaited. Far more than it takes on a fast machine: a
/// test that fails should fail for its reason, not because the machine was busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Tries until `attempt` gives something, for what is seen only from outside and so tells no one when it
/// happens, such as a port that begins to answer.
///
/// # Errors
/// The last attempt's, when the time is up.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > until => bail!("{what}: not within {PATIENCE:?}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
