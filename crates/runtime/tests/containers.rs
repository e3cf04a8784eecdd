//! Real pods and containers: needs root, and busybox from Debian's `busybox-static`.
//!
//! The test program is its own helper (see `stead_runtime::become_helper`), so it has a `main` of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "containers/adoption.rs"]
mod adoption;
#[path = "containers/interrupted.rs"]
mod interrupted;
#[path = "containers/isolation.rs"]
mod isolation;
#[path = "containers/processes.rs"]
mod processes;
#[path = "containers/running.rs"]
mod running;
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use libtest_mimic::{Arguments, Trial};

/// Makes a trial of each test.
#[macro_export]
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(libtest_mimic::Trial::test(stringify!($name), || { $crate::block_on($name()); Ok(()) })),*]
    };
}

/// A test that takes longer hangs.
const MAX_TEST: std::time::Duration = std::time::Duration::from_secs(60);

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(MAX_TEST, test).await })
        .unwrap();
}

fn main() {
    stead_runtime::become_helper();
    adoption::become_server();
    let trials: Vec<Trial> = [
        running::trials(),
        processes::trials(),
        isolation::trials(),
        adoption::trials(),
        interrupted::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    support::remove_images();
    conclusion.exit();
}
