//! Starts whose outcome the server does not learn, and shims that stop answering.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use stead_runtime::{ContainerInfo, Event, Pod, PodError, StartError};
use tokio::task::JoinHandle;

use crate::support::*;
use crate::trials;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_start_that_was_given_up_does_not_come_about,
        a_start_that_the_shim_has_not_read_does_not_come_about,
        a_pod_that_dies_while_it_is_looked_for_is_reported_dead,
        what_is_being_started_is_waited_for_at_the_end,
        a_shim_that_hangs_does_not_keep_the_server,
    ]
}

/// A pod that was adopted: only of these can it be told which of our sockets leads to the shim.
async fn adopted(engine: &mut Engine) -> Pod {
    drop(engine.pod().await);
    let [pod] = engine.restart().await.alive.try_into().unwrap();
    pod
}

/// Cuts the server's connection to a shim, as the shim does when it is not listened to.
fn cut(shim: i32) {
    let this = Pid::from_raw(std::process::id().cast_signed()).unwrap();
    let this = rustix::process::pidfd_open(this, PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.collect::<Vec<_>>() {
        // One that has been closed meanwhile is another test's.
        let Ok(fd) = rustix::process::pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let peer = rustix::net::sockopt::socket_peercred(&fd);
        if peer.is_ok_and(|peer| peer.pid.as_raw_pid() == shim) {
            rustix::net::shutdown(&fd, rustix::net::Shutdown::Both).unwrap();
        }
    }
}

fn signal(pid: i32, name: &str) {
    let signal = nix::sys::signal::Signal::try_from(libc_signal(name)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// The containers whose cgroup has a process in it.
fn populated(engine: &Engine, pod: &str) -> BTreeSet<String> {
    let dirs = engine.cgroup_dirs().into_iter();
    let entries = dirs.flat_map(|dir| {
        std::fs::read_dir(dir.join(format!("pod{pod}")))
            .into_iter()
            .flatten()
            .flatten()
    });
    let populated = entries.filter(|entry| {
        let processes = std::fs::read_to_string(entry.path().join("cgroup.procs"));
        processes.is_ok_and(|processes| !processes.trim().is_empty())
    });
    populated
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Where the pod's containers have their bundles.
fn bundles(engine: &Engine, pod: &Pod) -> PathBuf {
    let pods = engine.dir.path().join("state/pods");
    pods.join(pod.uid()).join("containers")
}

/// Begins to start a container.
fn begin(pod: &Pod) -> JoinHandle<Result<ContainerInfo, StartError>> {
    let pod = pod.clone();
    tokio::spawn(async move { pod.start_container(script("c", "sleep 1000")).await })
}

/// Starts a container of a pod that cannot be talked to until it is connected again.
async fn start_when_connected(pod: &Pod) -> ContainerInfo {
    loop {
        match pod.start_container(script("c", "sleep 1000")).await {
            Ok(info) => break info,
            Err(StartError::PodEnded) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn a_start_that_was_given_up_does_not_come_about() {
    let mut engine = Engine::new().await;
    let pod = adopted(&mut engine).await;
    let (mut begun, mut lost) = (BTreeSet::new(), 0);
    for round in 0..24 {
        let starting = begin(&pod);
        // From before the request is sent until after the container runs.
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        cut(pod.pid());
        let info = match starting.await.unwrap() {
            Ok(info) => info,
            Err(error) => {
                assert!(matches!(error, StartError::PodEnded), "{error}");
                lost += 1;
                // Its name is free at once.
                start_when_connected(&pod).await
            }
        };
        begun.insert(info.id.clone());
        let known: Vec<_> = pod.containers().into_iter().map(|c| c.id).collect();
        assert_eq!(known, std::slice::from_ref(&info.id), "round {round}");
        until("it is alone", || {
            populated(&engine, pod.uid()) == BTreeSet::from([info.id.clone()])
        })
        .await;
        while let Err(error) = pod.signal(&info.id, libc_signal("KILL"), true).await {
            assert!(matches!(error, PodError::Ended), "{error}");
            tokio::task::yield_now().await;
        }
        // Nothing is heard of what was given up.
        match within(engine.events.next()).await {
            Some(Event::ContainerExited { container, .. }) => assert_eq!(container, info.id, "round {round}"),
            other => panic!("round {round}: {other:?}"),
        }
        pod.remove_container(&info.id).await.unwrap();
    }
    assert!(lost > 0 && !begun.is_empty(), "{lost} were lost");
    let bundles = bundles(&engine, &pod);
    until("nothing is left of them", || {
        std::fs::read_dir(&bundles).unwrap().count() == 0
    })
    .await;
    pod.remove().await.unwrap();
}

async fn a_start_that_the_shim_has_not_read_does_not_come_about() {
    let mut engine = Engine::new().await;
    let pod = adopted(&mut engine).await;
    let side = pod.start_container(script("side", "sleep 1000")).await.unwrap();
    signal(pod.pid(), "STOP");
    let starting = begin(&pod);
    let bundles = bundles(&engine, &pod);
    until("it is prepared", || {
        std::fs::read_dir(&bundles).unwrap().count() == 2
    })
    .await;
    // The request is sent right after.
    tokio::time::sleep(Duration::from_millis(100)).await;
    cut(pod.pid());
    let error = starting.await.unwrap().unwrap_err();
    assert!(matches!(error, StartError::PodEnded), "{error}");
    // The shim reads the request that was given up, and then that nobody waits for it.
    signal(pod.pid(), "CONT");
    let info = start_when_connected(&pod).await;
    let both = BTreeSet::from([side.id, info.id]);
    assert_eq!(populated(&engine, pod.uid()), both);
    let found = engine.restart().await;
    let known: BTreeSet<_> = found.alive[0].containers().into_iter().map(|c| c.id).collect();
    assert_eq!(known, both);
    drop(pod);
    found.alive[0].remove().await.unwrap();
}

async fn a_pod_that_dies_while_it_is_looked_for_is_reported_dead() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    pod.start_container(script("c", "sleep 1000")).await.unwrap();
    let shim = pod.pid();
    drop(pod);
    engine.runtime.clone().close().await;
    // It accepts connections, as the kernel does that for it, but does not answer.
    signal(shim, "STOP");
    let killer = tokio::spawn(async move {
        // In the middle of the search, which waits for an answer and can be seen from nowhere.
        tokio::time::sleep(Duration::from_millis(300)).await;
        kill(shim);
    });
    let found = engine.restart().await;
    killer.await.unwrap();
    assert!(found.alive.is_empty());
    let [dead] = found.dead.try_into().unwrap();
    assert_eq!(dead.containers.len(), 1);
    let told = tokio::time::timeout(Duration::from_millis(200), engine.events.next()).await;
    assert!(told.is_err(), "it is told twice: {told:?}");
    engine.runtime.remove_dead(&dead.config.uid).await.unwrap();
}

async fn what_is_being_started_is_waited_for_at_the_end() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let starting = begin(&pod);
    let bundles = bundles(&engine, &pod);
    until("it has begun", || {
        std::fs::read_dir(&bundles).unwrap().count() == 1
    })
    .await;
    within(engine.runtime.clone().close()).await;
    starting.await.unwrap().unwrap();
    drop(pod);
    let found = engine.restart().await;
    let [pod] = found.alive.try_into().unwrap();
    assert_eq!(pod.containers().len(), 1);
    pod.remove().await.unwrap();
}

async fn a_shim_that_hangs_does_not_keep_the_server() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let shim = pod.pid();
    signal(shim, "STOP");
    let starting = begin(&pod);
    // A shim that is stopped tells nobody that it has been asked.
    tokio::time::sleep(Duration::from_millis(100)).await;
    within(engine.runtime.clone().close()).await;
    let error = starting.await.unwrap().unwrap_err();
    assert!(matches!(error, StartError::PodEnded), "{error}");
    drop(pod);
    signal(shim, "CONT");
    // What the shim was asked for it does; the next server finds it.
    let found = engine.restart().await;
    let [pod] = found.alive.try_into().unwrap();
    let known: BTreeSet<_> = pod.containers().into_iter().map(|c| c.id).collect();
    assert_eq!(known.len(), 1);
    assert_eq!(populated(&engine, pod.uid()), known);
    pod.remove().await.unwrap();
}
