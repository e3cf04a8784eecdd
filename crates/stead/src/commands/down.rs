//! `stead down`: stop the pods, each in its grace period, and the server.

use super::up::change;
use super::{block_on, print, serve};
use crate::cli;
use crate::cluster::Cluster;
use crate::control::client::Control;
use crate::place::Place;
use crate::progress::Step;
use crate::serve::{End, Server, leave_machine};

/// Stops the cluster of a place.
pub(super) fn down(place: &Place) -> anyhow::Result<()> {
    if Cluster::read(place)?.is_none() {
        return print(&format!("There is no cluster in {}.", place.data().display()));
    }
    let changing = change(place)?;
    let stopped = stop(place)?;
    place.remove_run();
    drop(changing);
    print(&match stopped {
        true => format!(
            "The cluster {:?} is stopped; `stead{} up` brings it back.",
            place.name(),
            place.flag()
        ),
        false => format!("The cluster {:?} was not running.", place.name()),
    })
}

/// Stops pods and server. Says whether there was anything to stop.
pub(super) fn stop(place: &Place) -> anyhow::Result<bool> {
    let step = || Step::begin(format!("Stopping the cluster {:?}", place.name()));
    let asked = block_on(async {
        let Some(mut control) = Control::connect(place).await? else {
            return Ok(None);
        };
        let step = step();
        control.down().await?;
        Ok(Some(step))
    })?;
    if let Some(step) = asked {
        step.done();
        return Ok(true);
    }
    // The server may be gone while its pods live. A server knows best how to stop them.
    let anything = has_left_something(place);
    if anything {
        let step = step();
        serve::run(async {
            let server: Server =
                serve::start(place.clone(), cli::Serve::default(), |what| step.now(what)).await?;
            server.end(End::Down).await
        })?;
        step.done();
    }
    block_on(leave_machine(place))?;
    Ok(anything)
}

/// Whether there are pods of a server that did not end by itself.
fn has_left_something(place: &Place) -> bool {
    std::fs::read_dir(place.run().join("runtime").join("pods")).is_ok_and(|mut pods| pods.next().is_some())
}
