//! A server that goes away, and the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use stead_runtime::config::LogConfig;
use stead_runtime::images::{ImageStore, LoadOptions};
use stead_runtime::{ContainerState, ExecConfig, Found, PodError};

use crate::support::*;
use crate::trials;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        pods_are_adopted_with_everything_in_them,
        what_ended_while_no_server_was_there_is_known_to_the_next,
        a_pod_that_died_while_no_server_was_there_is_reported_dead,
        after_a_reboot_everything_is_dead_and_can_be_removed,
        a_server_that_is_killed_disturbs_no_container,
        a_server_killed_at_any_moment_leaves_nothing_unknown,
    ]
}

async fn pods_are_adopted_with_everything_in_them() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "while true; do echo tick; sleep 0.01; done");
    let log = engine.dir.path().join("c.log");
    container.log = Some(LogConfig::new(&log));
    container.annotations.insert("key".into(), "value".into());
    container.attempt = 3;
    let running = pod.start_container(container).await.unwrap();
    engine.run(&pod, script("ended", "exit 5")).await;
    let (before, config) = (pod.containers(), pod.config().clone());
    let shim = pod.pid();
    drop(pod);

    let found = engine.restart().await;
    assert!(found.dead.is_empty());
    let [pod] = found.alive.try_into().unwrap();
    assert_eq!((pod.pid(), pod.config()), (shim, &config));
    assert_eq!(pod.containers(), before);
    assert!(pod.netns().is_some());
    let length = std::fs::metadata(&log).unwrap().len();
    until("the log grows", || {
        std::fs::metadata(&log).unwrap().len() > length
    })
    .await;
    let output = pod
        .exec_sync(&running.id, ExecConfig::new(["echo", "still here"]), None, 100)
        .await
        .unwrap();
    assert_eq!(output.stdout, b"still here\n");
    assert!(
        pod.start_container(script("c", "true")).await.is_err(),
        "its name is in use"
    );
    let error = engine.runtime.create_pod(config).await.unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");
    images().remove(IMAGE).unwrap_err();
    pod.signal(&running.id, libc_signal("KILL"), true).await.unwrap();
    assert_eq!(engine.exit(&running.id).await.exit_code, 137);
    pod.remove().await.unwrap();
}

async fn what_ended_while_no_server_was_there_is_known_to_the_next() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let stop = engine.dir.path().join("stop");
    let mut container = script("c", "while ! test -e /dir/stop; do sleep 0.01; done; exit 11");
    container.mounts.push(stead_runtime::config::Mount {
        target: "/dir".into(),
        source: stead_runtime::config::MountSource::Host {
            path: engine.dir.path().to_owned(),
            propagation: stead_runtime::config::Propagation::Private,
            recursive_read_only: false,
        },
        read_only: true,
    });
    let info = pod.start_container(container).await.unwrap();
    let record = engine
        .dir
        .path()
        .join("state/pods")
        .join(pod.uid())
        .join("containers")
        .join(&info.id)
        .join("exit.json");
    drop(pod);
    engine.runtime.clone().close().await;
    std::fs::write(&stop, "").unwrap();
    until("the end is recorded", || record.exists()).await;
    let found = engine.restart().await;
    let [pod] = found.alive.try_into().unwrap();
    match &pod.containers()[..] {
        [container] => match &container.state {
            ContainerState::Exited(exit) => assert_eq!(exit.exit_code, 11),
            state => panic!("{state:?}"),
        },
        containers => panic!("{containers:?}"),
    }
    pod.remove().await.unwrap();
}

async fn a_pod_that_died_while_no_server_was_there_is_reported_dead() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let (ended, _) = engine.run(&pod, script("ended", "exit 5")).await;
    pod.start_container(script("running", "sleep 1000"))
        .await
        .unwrap();
    let shim = pod.pid();
    let uid = pod.uid().to_owned();
    drop(pod);
    engine.runtime.clone().close().await;
    kill(shim);
    until("the shim has ended", || !is_alive(shim)).await;
    let found = engine.restart().await;
    assert!(found.alive.is_empty());
    let [dead] = found.dead.try_into().unwrap();
    assert_eq!(dead.config.uid, uid);
    let mut ends: Vec<_> = dead
        .containers
        .iter()
        .map(|c| (c.name.clone(), c.state.clone()))
        .collect();
    ends.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(ends[0], ("ended".to_owned(), ContainerState::Exited(ended)));
    let ContainerState::Exited(exit) = &ends[1].1 else {
        panic!("{ends:?}")
    };
    assert_eq!((ends[1].0.as_str(), exit.exit_code), ("running", 137));
    engine.runtime.remove_dead(&uid).await.unwrap();
    assert!(engine.restart().await.dead.is_empty());
}

async fn after_a_reboot_everything_is_dead_and_can_be_removed() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    engine.run(&pod, script("ended", "exit 5")).await;
    let (uid, config) = (pod.uid().to_owned(), pod.config().clone());
    pod.stop().await.unwrap();
    drop(pod);
    engine.runtime.clone().close().await;
    // The run directory is empty after a reboot.
    std::fs::remove_dir_all(engine.dir.path().join("run")).unwrap();
    let found = engine.restart().await;
    let [dead] = found.dead.try_into().unwrap();
    assert_eq!(
        (dead.config.uid.as_str(), dead.containers.len()),
        (uid.as_str(), 1)
    );
    // Making it again removes what the old one has left.
    let pod = engine.runtime.create_pod(config).await.unwrap();
    assert!(pod.containers().is_empty());
    pod.remove().await.unwrap();
}

/// What makes the test program a server: it makes a pod with a container, says so, and goes on making
/// containers until it is killed.
const SERVER: &str = "server";

pub(crate) fn become_server() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(SERVER) {
        let dir = PathBuf::from(arguments.next().expect("a directory"));
        // Until it is killed.
        tokio::runtime::Runtime::new().unwrap().block_on(serve(&dir));
    }
}

async fn serve(dir: &Path) {
    let images = Arc::new(ImageStore::open(dir.join("images")).unwrap());
    if images.list().is_empty() {
        images
            .load(&busybox_archive(&[IMAGE])[..], &LoadOptions::default())
            .unwrap();
    }
    let (runtime, _events, found) = open(dir, &cgroup_of(dir), images).await;
    let pod = match found.alive.into_iter().next() {
        Some(pod) => pod,
        None => runtime.create_pod(pod_config()).await.unwrap(),
    };
    let mut ticker = script("ticker", "while true; do echo tick; sleep 0.01; done");
    ticker.log = Some(LogConfig::new(dir.join("ticker.log")));
    // It runs already, if this is not the first server.
    let _ = pod.start_container(ticker).await;
    std::fs::write(dir.join("ready"), "").unwrap();
    for n in 0.. {
        let _ = pod
            .start_container(script(&format!("{}-{n}", std::process::id()), "sleep 1000"))
            .await;
        if n >= 8 {
            std::future::pending::<()>().await;
        }
    }
}

fn cgroup_of(dir: &Path) -> String {
    format!(
        "stead-test-{}",
        dir.file_name().unwrap().to_str().unwrap().trim_start_matches('.')
    )
}

/// A server in a process of its own. Ended with the test.
struct Server(Child);

impl Server {
    async fn start(dir: &Path) -> Self {
        let _ = std::fs::remove_file(dir.join("ready"));
        let child = Command::new("/proc/self/exe")
            .arg(SERVER)
            .arg(dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        until("the server is ready", || dir.join("ready").exists()).await;
        server
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes over what a killed server had.
async fn take_over(dir: tempfile::TempDir) -> (Engine, Found) {
    let cgroup = cgroup_of(dir.path());
    let images = Arc::new(ImageStore::open(dir.path().join("images")).unwrap());
    let (runtime, events, found) = open(dir.path(), &cgroup, images).await;
    (
        Engine {
            dir,
            cgroup,
            runtime,
            events,
        },
        found,
    )
}

async fn a_server_that_is_killed_disturbs_no_container() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path()).await;
    server.kill();
    let log = dir.path().join("ticker.log");
    let length = std::fs::metadata(&log).unwrap().len();
    until("the container goes on", || {
        std::fs::metadata(&log).unwrap().len() > length
    })
    .await;
    let (engine, found) = take_over(dir).await;
    let [pod] = found.alive.try_into().unwrap();
    let ticker = pod.containers().into_iter().find(|c| c.name == "ticker").unwrap();
    assert!(ticker.is_running());
    // It was waiting for none of the server's descriptors.
    pod.remove().await.unwrap();
    drop(engine);
}

async fn a_server_killed_at_any_moment_leaves_nothing_unknown() {
    let mut dir = tempfile::tempdir().unwrap();
    let mut shim = None;
    for round in 0..6 {
        let mut server = Server::start(dir.path()).await;
        // Somewhere between one container and the next.
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        server.kill();
        let (mut engine, found) = take_over(dir).await;
        let [pod] = found.alive.try_into().unwrap();
        assert_eq!(
            *shim.get_or_insert(pod.pid()),
            pod.pid(),
            "it is the same pod all the time"
        );
        // One whose start nobody saw runs all the same.
        let known = || -> BTreeSet<_> {
            pod.containers()
                .into_iter()
                .filter(|c| c.is_running())
                .map(|c| c.id)
                .collect()
        };
        let container_cgroups = || -> BTreeSet<String> {
            let dirs = engine
                .cgroup_dirs()
                .into_iter()
                .map(|dir| dir.join(format!("pod{}", pod.uid())));
            let populated = dirs
                .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
                .filter(|entry| {
                    let procs =
                        std::fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                    !procs.trim().is_empty()
                });
            populated
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect()
        };
        until("exactly the known containers run", || {
            known() == container_cgroups()
        })
        .await;
        for container in pod.containers() {
            assert!(container.is_running(), "{container:?} was disturbed");
            if container.name != "ticker" {
                let killed = pod.signal(&container.id, libc_signal("KILL"), true).await;
                // It may end by itself in this moment.
                assert!(matches!(killed, Ok(()) | Err(PodError::State(_))), "{killed:?}");
                engine.exit(&container.id).await;
                pod.remove_container(&container.id).await.unwrap();
            }
        }
        drop(pod);
        engine.runtime.clone().close().await;
        dir = engine.keep_dir();
    }
    let (engine, found) = take_over(dir).await;
    let [pod] = found.alive.try_into().unwrap();
    pod.remove().await.unwrap();
    drop(engine);
}
