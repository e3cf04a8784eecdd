//! Namespaces, privileges, and that nothing is left behind.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libtest_mimic::Trial;
use stead_runtime::config::{
    Device, IpcMode, Mount, MountSource, NetworkMode, PidMode, PodConfig, Propagation,
};
use stead_runtime::{CreatePodError, Event};

use crate::support::*;
use crate::trials;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_pod_has_a_network_of_its_own,
        a_pod_may_share_the_hosts_network,
        containers_may_share_their_processes,
        a_pod_may_see_the_hosts_processes_and_still_dies_with_its_shim,
        devices_of_the_host_are_out_of_reach_unless_privileged,
        sysctls_are_the_pods_own,
        a_container_sees_its_own_limits,
        mounts_made_later_appear_where_they_should,
        a_shim_that_is_killed_takes_everything_with_it,
        nothing_is_left_of_a_removed_pod,
        a_shim_is_small,
        a_pod_that_cannot_be_made_leaves_nothing,
    ]
}

fn namespace(pid: i32, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino()
}

async fn a_pod_has_a_network_of_its_own() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let netns = pod.netns().unwrap().try_clone_to_owned().unwrap();
    assert_eq!(
        fs::File::from(netns).metadata().unwrap().ino(),
        namespace(pod.pid(), "net")
    );
    assert_ne!(namespace(pod.pid(), "net"), namespace_self("net"));
    let (_, log) = engine
        .run(
            &pod,
            script("c", "ls /sys/class/net; cat /sys/class/net/lo/operstate"),
        )
        .await;
    assert_eq!(log, "lo\nunknown\n");
    pod.remove().await.unwrap();
}

fn namespace_self(kind: &str) -> u64 {
    fs::metadata(format!("/proc/self/ns/{kind}")).unwrap().ino()
}

async fn a_pod_may_share_the_hosts_network() {
    let mut engine = Engine::new().await;
    let config = PodConfig {
        network: NetworkMode::Host,
        ipc: IpcMode::Host,
        ..pod_config()
    };
    let pod = engine.runtime.create_pod(config).await.unwrap();
    assert!(pod.netns().is_none());
    for kind in ["net", "uts", "ipc"] {
        assert_eq!(namespace(pod.pid(), kind), namespace_self(kind), "{kind}");
    }
    let (_, log) = engine
        .run(&pod, script("c", "hostname; test -d /dev/shm && echo shm"))
        .await;
    assert_eq!(
        log,
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap() + "shm\n"
    );
    pod.remove().await.unwrap();
}

async fn containers_may_share_their_processes() {
    let mut engine = Engine::new().await;
    let config = PodConfig {
        pid: PidMode::Pod,
        ..pod_config()
    };
    let pod = engine.runtime.create_pod(config).await.unwrap();
    let sleeper = pod
        .start_container(script("sleeper", "sleep 123456 & sleep 123457 & wait"))
        .await
        .unwrap();
    let (_, log) = loop {
        let (exit, log) = engine
            .run(
                &pod,
                script("ps", "ps | grep 12345[67] | grep -v sh | wc -l; kill -9 1"),
            )
            .await;
        if log.trim() == "2" {
            break (exit, log);
        }
    };
    assert_eq!(log, "2\n");
    assert!(
        is_alive(pod.pid()),
        "its own process 1 cannot be killed from inside"
    );
    let pids = processes_of(&engine, pod.uid(), &sleeper.id);
    assert!(pids.len() >= 3, "{pids:?}");
    // Not only the first process ends.
    pod.signal(&sleeper.id, libc_signal("KILL"), false).await.unwrap();
    engine.exit(&sleeper.id).await;
    until("all processes of the container have ended", || {
        pids.iter().all(|pid| !is_alive(*pid))
    })
    .await;
    pod.remove().await.unwrap();
}

fn processes_of(engine: &Engine, uid: &str, container: &str) -> Vec<i32> {
    let dirs = engine
        .cgroup_dirs()
        .into_iter()
        .map(|dir| dir.join(format!("pod{uid}")).join(container));
    let mut pids: Vec<i32> = dirs
        .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

async fn a_pod_may_see_the_hosts_processes_and_still_dies_with_its_shim() {
    let mut engine = Engine::new().await;
    let config = PodConfig {
        pid: PidMode::Host,
        ..pod_config()
    };
    let pod = engine.runtime.create_pod(config).await.unwrap();
    let (_, log) = engine.run(&pod, script("c", "readlink /proc/self/ns/pid")).await;
    assert_eq!(
        log.trim(),
        fs::read_link("/proc/self/ns/pid").unwrap().to_str().unwrap()
    );
    let busy = pod
        .start_container(script("busy", "trap : TERM; (sleep 234567 & sleep 234568); wait"))
        .await
        .unwrap();
    until("its children run", || {
        processes_of(&engine, pod.uid(), &busy.id).len() >= 3
    })
    .await;
    let pids = processes_of(&engine, pod.uid(), &busy.id);
    kill(pod.pid());
    within(pod.ended()).await;
    for pid in pids {
        assert!(!is_alive(pid), "{pid} outlived its pod");
    }
    engine.runtime.remove_dead(pod.uid()).await.unwrap();
}

async fn devices_of_the_host_are_out_of_reach_unless_privileged() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let disk = fs::read_dir("/dev")
        .unwrap()
        .flatten()
        .find(|entry| entry.file_type().unwrap().is_block_device());
    let disk = disk.expect("a machine with a disk").path();
    let device = fs::metadata(&disk).unwrap().rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let read = |node: &str| format!("dd if={node} of=/dev/null bs=512 count=1 2>/dev/null && echo reached");
    let test = format!(
        "mknod /n b {major} {minor} && echo made; {}; echo x > /dev/null && echo null",
        read("/n")
    );
    assert_eq!(engine.run(&pod, script("plain", &test)).await.1, "made\nnull\n");
    let mut privileged = script("privileged", &format!("{test}; {}", read(disk.to_str().unwrap())));
    privileged.security.privileged = true;
    assert_eq!(
        engine.run(&pod, privileged).await.1,
        "made\nreached\nnull\nreached\n"
    );
    let write = "dd if=/dev/null of=/dev/given count=1 2>/dev/null || echo not written";
    let mut given = script("given", &format!("{}; {write}", read("/dev/given")));
    given.devices = vec![Device {
        host_path: disk,
        container_path: "/dev/given".into(),
        permissions: "r".into(),
    }];
    assert_eq!(engine.run(&pod, given).await.1, "reached\nnot written\n");
    pod.remove().await.unwrap();
}

async fn sysctls_are_the_pods_own() {
    let mut engine = Engine::new().await;
    let mut config = pod_config();
    config
        .sysctls
        .insert("net.ipv4.ip_unprivileged_port_start".into(), "42".into());
    config.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let pod = engine.runtime.create_pod(config).await.unwrap();
    let read = "exec 2>&1; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; \
        echo 1 > /proc/sys/kernel/shm_rmid_forced";
    let (_, log) = engine.run(&pod, script("c", read)).await;
    assert!(log.starts_with("42\n1\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert_ne!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(),
        "42\n"
    );
    pod.remove().await.unwrap();
}

async fn a_container_sees_its_own_limits() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let files = "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max";
    let mut container = script(
        "c",
        &format!("cat {files} 2>/dev/null; exec 2>&1; touch /sys/fs/cgroup/x; ls /proc/acpi"),
    );
    container.resources.memory_limit_bytes = Some(64 << 20);
    let (_, log) = engine.run(&pod, container).await;
    assert!(log.starts_with("67108864\n"), "{log}");
    assert!(log.contains("/sys/fs/cgroup/x: Read-only file system"), "{log}");
    pod.remove().await.unwrap();
}

async fn mounts_made_later_appear_where_they_should() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let shared = SharedMount::new(&engine.dir.path().join("shared"));
    let mount = |target: &str, propagation| Mount {
        target: target.into(),
        source: MountSource::Host {
            path: shared.0.clone(),
            propagation,
            recursive_read_only: false,
        },
        read_only: false,
    };
    let wait = "while ! test -e /from/late/x; do sleep 0.01; done; ls /private/late; \
        mount -t tmpfs t /both/out && touch /both/out/y; sleep 1000";
    let mut container = script("c", wait);
    container.security.privileged = true;
    container.mounts = vec![
        mount("/private", Propagation::Private),
        mount("/from", Propagation::FromHost),
        mount("/both", Propagation::Both),
    ];
    for name in ["late", "out"] {
        fs::create_dir(shared.0.join(name)).unwrap();
    }
    let log = engine.dir.path().join("c.log");
    container.log = Some(stead_runtime::config::LogConfig::new(&log));
    let info = pod.start_container(container).await.unwrap();
    shared.mount_below("late");
    fs::write(shared.0.join("late/x"), "").unwrap();
    until("the container's mount appears on the host", || {
        shared.0.join("out/y").exists()
    })
    .await;
    pod.signal(&info.id, libc_signal("KILL"), true).await.unwrap();
    engine.exit(&info.id).await;
    assert_eq!(
        log_text(&log),
        "",
        "the private mount does not see what was mounted later"
    );
    pod.remove().await.unwrap();
}

/// A shared mount of our own; unmounted when it goes.
struct SharedMount(std::path::PathBuf);

impl SharedMount {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        rustix::mount::mount("t", path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let shared = Self(path.to_owned());
        rustix::mount::mount_change(path, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        shared
    }

    fn mount_below(&self, name: &str) {
        let path = self.0.join(name);
        rustix::mount::mount("t", path, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

async fn a_shim_that_is_killed_takes_everything_with_it() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let busy = "trap : TERM INT HUP; (sleep 345678 & sleep 345679 &) ; while true; do sleep 1; done";
    let one = pod.start_container(script("one", busy)).await.unwrap();
    let two = pod.start_container(script("two", busy)).await.unwrap();
    until("their children run", || {
        processes_of(&engine, pod.uid(), &one.id).len() >= 3
    })
    .await;
    let mut pids = processes_of(&engine, pod.uid(), &one.id);
    pids.extend(processes_of(&engine, pod.uid(), &two.id));
    kill(pod.pid());
    let mut ended = Vec::new();
    loop {
        match within(engine.events.next()).await.unwrap() {
            Event::ContainerExited { name, exit, .. } => {
                assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
                ended.push(name);
            }
            Event::PodEnded { pod: uid } => {
                assert_eq!(uid, pod.uid());
                break;
            }
        }
    }
    ended.sort();
    assert_eq!(ended, ["one", "two"]);
    for pid in pids {
        assert!(!is_alive(pid), "{pid} outlived its pod");
    }
    for dir in engine.cgroup_dirs() {
        assert!(!dir.join(format!("pod{}", pod.uid())).exists());
    }
    assert!(engine.runtime.pod(pod.uid()).is_none());
    assert!(pod.start_container(script("late", "true")).await.is_err());
    // A pod of the same uid can be made at once.
    let again = engine.runtime.create_pod(pod.config().clone()).await.unwrap();
    again.remove().await.unwrap();
}

async fn nothing_is_left_of_a_removed_pod() {
    let mut engine = Engine::new().await;
    let before = mounts();
    let pod = engine.pod().await;
    for n in 0..3 {
        pod.start_container(script(&format!("c{n}"), "sleep 1000"))
            .await
            .unwrap();
    }
    engine.run(&pod, script("ended", "true")).await;
    assert_eq!(mounts(), before, "no mount of a pod is seen on the host");
    let shim = pod.pid();
    let error = engine.runtime.create_pod(pod.config().clone()).await.unwrap_err();
    assert!(matches!(error, CreatePodError::Exists(_)));
    pod.remove().await.unwrap();
    assert!(!is_alive(shim));
    assert_eq!(mounts(), before);
    for part in ["state/pods", "run/pods"] {
        assert_eq!(
            fs::read_dir(engine.dir.path().join(part)).unwrap().count(),
            0,
            "{part}"
        );
    }
    for dir in engine.cgroup_dirs() {
        let below = fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_dir());
        assert_eq!(
            below.map(|entry| entry.file_name()).collect::<Vec<_>>(),
            ["shims"],
            "{dir:?}"
        );
    }
    engine.runtime.remove_dead(pod.uid()).await.unwrap();
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // What other tests mount at the same time is below their own directories.
    table
        .lines()
        .filter(|line| !line.contains("/shared"))
        .map(str::to_owned)
        .collect()
}

async fn a_shim_is_small() {
    const MAX_PRIVATE_KB: u64 = 300;
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    for n in 0..5 {
        engine.run(&pod, script(&format!("c{n}"), "seq 1 10000")).await;
        pod.exec_sync(&id, stead_runtime::ExecConfig::new(["true"]), None, 100)
            .await
            .unwrap();
    }
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.pid())).unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    let private: u64 = private
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(
        private <= MAX_PRIVATE_KB,
        "{private} kB are private to the shim:\n{rollup}"
    );
    let open = fs::read_dir(format!("/proc/{}/fd", pod.pid())).unwrap().count();
    assert!(open < 60, "{open} open files");
    pod.remove().await.unwrap();
}

async fn a_pod_that_cannot_be_made_leaves_nothing() {
    let engine = Engine::new().await;
    for uid in ["", "..", "a/b", "a b"] {
        let config = PodConfig {
            uid: uid.into(),
            ..pod_config()
        };
        assert!(engine.runtime.create_pod(config).await.is_err(), "{uid:?}");
    }
    let mut config = pod_config();
    config.sysctls.insert("net.ipv4.no_such_thing".into(), "1".into());
    let error = engine.runtime.create_pod(config.clone()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("set the sysctl \"net.ipv4.no_such_thing\""),
        "{error}"
    );
    assert!(engine.runtime.pods().is_empty());
    config.sysctls.clear();
    engine
        .runtime
        .create_pod(config)
        .await
        .unwrap()
        .remove()
        .await
        .unwrap();
}
