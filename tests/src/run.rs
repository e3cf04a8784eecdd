//! Running tests: each on a machine of its own, two at a time; those that load the computer one at a time.

use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::{Arguments, Trial};

use crate::artifacts;
use crate::cluster::Cluster;
use crate::machine::Machine;

/// A test: its name, and what to run.
pub type Test = (&'static str, fn() -> Result<()>);

/// Held by every test: for itself by one that must be alone, together with others by the others.
static COMPUTER: RwLock<()> = RwLock::new(());

/// The main function of a program of tests. Those that are `alone` load the computer so much that what runs
/// beside them would be late: they run after the others, one at a time.
pub fn main(tests: &[Test], alone: &[Test]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Clusters mostly wait, so more would go; but then times say little.
    arguments.test_threads.get_or_insert(2);
    let together = tests.iter().map(|&(name, test)| {
        trial(name, move || {
            let _shared = COMPUTER.read().unwrap_or_else(PoisonError::into_inner);
            test()
        })
    });
    let alone = alone.iter().map(|&(name, test)| {
        trial(name, move || {
            let _own = COMPUTER.write().unwrap_or_else(PoisonError::into_inner);
            test()
        })
    });
    // They are begun in this order.
    let conclusion = libtest_mimic::run(&arguments, together.chain(alone).collect());
    match artifacts::clean() {
        Ok(()) => conclusion.exit_code(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn trial(name: &str, run: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, || {
        artifacts::check()
            .and_then(|()| run())
            .map_err(|error| format!("{error:#}").into())
    })
}

/// Does several things at once, each with a name. All are awaited, whatever comes of the others.
///
/// # Errors
/// What went wrong, of all of them.
pub fn side_by_side<T: FnOnce() -> Result<()> + Send>(
    parts: impl IntoIterator<Item = (String, T)>,
) -> Result<()> {
    let faults: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = parts
            .into_iter()
            .map(|(name, part)| (name, scope.spawn(part)))
            .collect();
        let fault = |(name, run): (String, std::thread::ScopedJoinHandle<'_, Result<()>>)| {
            let outcome = run.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
            Some(format!("{name}: {:#}", outcome.err()?))
        };
        runs.into_iter().filter_map(fault).collect()
    });
    ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
    Ok(())
}

/// Runs a test on a new machine. At its end, the machine must be as it was at first.
///
/// # Errors
/// The test's, with the state of the clusters that it left; or what was left behind.
pub fn on_a_machine(test: impl FnOnce(&Machine) -> Result<()>) -> Result<()> {
    let machine = Machine::new()?;
    let result = catch_unwind(AssertUnwindSafe(|| test(&machine)))
        .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", said(&*panic))));
    match result {
        Ok(()) => machine.check_nothing_is_left(),
        Err(error) => {
            let mut text = String::new();
            let clusters = machine
                .clusters
                .lock()
                .unwrap_or_else(|poison| poison.into_inner());
            for place in clusters.iter() {
                let name = place.data_dir.display();
                let _ = write!(
                    text,
                    "\n##### the cluster {name}{}",
                    Cluster::describe(&machine, place)
                );
            }
            let processes = machine.processes().unwrap_or_default().join("\n");
            let _ = write!(text, "\n##### the machine's processes\n{processes}\n");
            // Last, as logs are read from their end, and the start may have been cut off.
            let _ = write!(text, "\n##### what failed\n{error:#}\n");
            Err(anyhow!(text))
        }
    }
}

/// Runs a test on a new cluster, which is deleted at the end and must leave nothing.
///
/// # Errors
/// As [`on_a_machine`].
pub fn on_a_cluster(test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        cluster.up()?;
        test(&cluster)?;
        cluster.delete()
    })
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default()
}
