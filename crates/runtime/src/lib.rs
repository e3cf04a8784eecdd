//! Images and containers.
//!
//! This crate runs containers on this machine without any other daemon, and knows nothing of Kubernetes:
//! its vocabulary is that of the CRI, as plain data. It depends on nothing of ours.
//!
//! * [`config`]: what a pod and a container are to be;
//! * [`Runtime`], [`Pod`]: making them, and what can be done with them;
//! * [`images`]: the store of images, filled from archives and registries;
//! * [`logs`]: reading what containers have written;
//! * [`shim`]: the process that a pod is.
//!
//! **The binary runs as its own helpers.** A pod's shim, and the process that unpacks a layer, are the same
//! program started anew. `main` must therefore begin with [`become_helper`], before any thread exists.
//!
//! Linux only, as root. cgroup v1, hybrid and v2 are served, with or without `CAP_SYS_RESOURCE`.

mod blocking;
mod cgroup;
pub mod config;
pub mod images;
mod inotify;
pub mod logs;
mod oci;
mod ready;
mod record;
mod runtime;
pub mod shim;

pub use cgroup::CgroupError;
pub use cgroup::stats::Stats;
pub use oci::SpecError;
pub use oci::user::UserError;
pub use record::ExitRecord;
pub use runtime::*;

/// Becomes the helper that the first argument names, if it names one, and then never returns.
///
/// To be called first thing in `main`. Otherwise it costs a look at the arguments.
pub fn become_helper() {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(word) if word == shim::ARGUMENT => shim::main(arguments),
        Some(word) if word == images::unpack::ARGUMENT => images::unpack::main(arguments),
        _ => {}
    }
}
