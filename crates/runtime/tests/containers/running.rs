//! Containers from start to end: commands, environment, users, limits, logs.

use std::fs;
use std::time::Duration;

use futures::StreamExt;
use libtest_mimic::Trial;
use stead_runtime::config::{
    ContainerConfig, LogConfig, Mount, MountSource, Propagation, Resources, Rlimit, RlimitKind, User,
    UserName,
};
use stead_runtime::logs::{self, LogOptions};
use stead_runtime::{ContainerState, StartError};

use crate::support::*;
use crate::trials;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_container_runs_and_its_exit_code_and_output_are_kept,
        a_container_that_is_killed_says_by_which_signal,
        a_container_that_takes_too_much_memory_is_said_to_have,
        a_command_that_cannot_be_run_is_refused_in_runcs_words_and_leaves_nothing,
        a_name_is_used_once_at_a_time,
        a_container_is_who_and_where_it_should_be,
        environment_and_arguments_come_from_the_image_and_from_the_pod,
        mounts_are_where_they_should_be_and_read_only_if_so_meant,
        containers_of_a_pod_share_memory_and_host_name,
        limits_are_set_and_changed_and_use_is_counted,
        a_log_is_rotated_and_read_as_one,
        a_flood_in_the_log_holds_up_nobody_else,
        a_log_is_followed_to_the_end_of_its_container,
        what_is_not_permitted_here_is_left_out,
        a_removed_container_leaves_only_its_log,
    ]
}

async fn a_container_runs_and_its_exit_code_and_output_are_kept() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let (exit, log) = engine
        .run(&pod, script("c", "echo hello; echo error >&2; exit 3"))
        .await;
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(exit.started_at < exit.finished_at);
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["error", "hello"]);
    pod.remove().await.unwrap();
}

async fn a_container_that_is_killed_says_by_which_signal() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let trap = pod
        .start_container(script("trap", "trap 'exit 7' TERM; echo; sleep 1000 & wait"))
        .await
        .unwrap();
    let deaf = pod.start_container(script("deaf", "sleep 1000")).await.unwrap();
    // The first process of a PID namespace is deaf to signals it has no handler for.
    pod.signal(&deaf.id, libc_signal("TERM"), false).await.unwrap();
    pod.signal(&deaf.id, libc_signal("KILL"), false).await.unwrap();
    let exit = engine.exit(&deaf.id).await;
    assert_eq!((exit.exit_code, exit.signal), (137, Some(9)));
    until("the trap is set", || !is_child_missing(pid_of(&trap))).await;
    pod.signal(&trap.id, libc_signal("TERM"), false).await.unwrap();
    assert_eq!(engine.exit(&trap.id).await.exit_code, 7);
    assert!(pod.signal(&trap.id, libc_signal("KILL"), false).await.is_err());
    pod.remove().await.unwrap();
}

fn is_child_missing(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .trim()
        .is_empty()
}

async fn a_container_that_takes_too_much_memory_is_said_to_have() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("hungry", "tail /dev/zero");
    container.resources.memory_limit_bytes = Some(16 << 20);
    let (exit, _) = engine.run(&pod, container).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.exit_code, 137);
    pod.remove().await.unwrap();
}

async fn a_command_that_cannot_be_run_is_refused_in_runcs_words_and_leaves_nothing() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let cases = [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        (
            "/nosuch",
            "exec: \"/nosuch\": stat /nosuch: no such file or directory",
        ),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ];
    for (command, expected) in cases {
        let config = ContainerConfig {
            command: vec![command.to_owned()],
            ..script("c", "")
        };
        let error = pod.start_container(config).await.unwrap_err();
        let StartError::Command { message, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(message, expected);
        let whole =
            format!("OCI runtime create failed: unable to start container process: {expected}: unknown");
        assert_eq!(error.to_string(), whole);
    }
    let missing = ContainerConfig {
        image: "nosuch:1".into(),
        ..script("c", "")
    };
    assert!(matches!(
        pod.start_container(missing).await,
        Err(StartError::NoImage(_))
    ));
    assert!(pod.containers().is_empty());
    let bundles = engine
        .dir
        .path()
        .join("state/pods")
        .join(pod.uid())
        .join("containers");
    assert_eq!(fs::read_dir(bundles).unwrap().count(), 0);
    pod.remove().await.unwrap();
}

async fn a_name_is_used_once_at_a_time() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let (first, second) = tokio::join!(
        pod.start_container(script("c", "sleep 1000")),
        pod.start_container(script("c", "sleep 1000"))
    );
    let (started, refused) = if first.is_ok() {
        (first, second)
    } else {
        (second, first)
    };
    assert!(matches!(refused, Err(StartError::NameInUse(_))));
    let id = started.unwrap().id;
    pod.signal(&id, libc_signal("KILL"), true).await.unwrap();
    engine.exit(&id).await;
    pod.start_container(script("c", "sleep 1000")).await.unwrap();
    pod.remove().await.unwrap();
}

async fn a_container_is_who_and_where_it_should_be() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let report =
        "id -u; id -g; id -G; pwd; echo $HOME; hostname; grep CapEff /proc/self/status; echo x > /dev/stdout";
    let mut container = script("root", report);
    container.working_dir = Some("/made/for/it".into());
    let (_, log) = engine.run(&pod, container).await;
    let host = &pod.config().hostname;
    assert_eq!(
        log,
        format!("0\n0\n0\n/made/for/it\n/root\n{host}\nCapEff:\t00000000a80425fb\nx\n")
    );

    let mut container = script("web", report);
    container.user = User {
        uid: Some(UserName::Name("web".into())),
        ..User::default()
    };
    container.security.drop_capabilities = vec!["ALL".into()];
    container.security.no_new_privileges = true;
    let (exit, log) = engine.run(&pod, container).await;
    assert_eq!(
        log,
        format!("33\n44\n44 4\n/\n/srv\n{host}\nCapEff:\t0000000000000000\nx\n"),
        "{exit:?}"
    );
    pod.remove().await.unwrap();
}

async fn environment_and_arguments_come_from_the_image_and_from_the_pod() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = ContainerConfig {
        command: vec!["env".into()],
        ..script("env", "")
    };
    container.env = vec![("A".into(), "1".into()), ("A".into(), "2=3".into())];
    let (_, log) = engine.run(&pod, container).await;
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    let host = format!("HOSTNAME={}", pod.config().hostname);
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=2=3", "FROM_IMAGE=yes", "HOME=/root", &host, path]);

    // The image has only a command (`sh`), which arguments replace.
    let mut container = script("args", "");
    (container.command, container.args) = (vec![], vec!["echo".into(), "from args".into()]);
    assert_eq!(engine.run(&pod, container).await.1, "from args\n");
    pod.remove().await.unwrap();
}

async fn mounts_are_where_they_should_be_and_read_only_if_so_meant() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let host = engine.dir.path().join("volume");
    fs::create_dir_all(host.join("inner")).unwrap();
    fs::write(host.join("file"), "data").unwrap();
    let bind = |source: &str, target: &str, read_only| {
        let path = if source.is_empty() {
            host.clone()
        } else {
            host.join(source)
        };
        let source = MountSource::Host {
            path,
            propagation: Propagation::Private,
            recursive_read_only: false,
        };
        Mount {
            target: target.into(),
            source,
            read_only,
        }
    };
    let test = "exec 2>&1; cat /etc/config; touch /rw/new && touch /ro/new; ls /ro/inner/deep; touch /x; \
        df /t | tail -1 | awk '{print $2}'; touch /t/x && echo tmpfs";
    let mut container = script("mounts", test);
    container.mounts = vec![
        bind("inner", "/ro/inner", false),
        bind("", "/ro", true),
        bind("", "/rw", false),
        bind("file", "/etc/config", true),
        Mount {
            target: "/t".into(),
            source: MountSource::Tmpfs {
                size_bytes: Some(1 << 20),
                mode: 0o1777,
            },
            read_only: false,
        },
    ];
    container.security.read_only_root = true;
    fs::create_dir(host.join("inner/deep")).unwrap();
    let (_, log) = engine.run(&pod, container).await;
    let expected =
        "datatouch: /ro/new: Read-only file system\ntouch: /x: Read-only file system\n1024\ntmpfs\n";
    assert_eq!(log, expected);
    assert!(host.join("new").exists());
    pod.remove().await.unwrap();
}

async fn containers_of_a_pod_share_memory_and_host_name() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    engine
        .run(
            &pod,
            script("one", "echo shared > /dev/shm/x; hostname other 2>/dev/null"),
        )
        .await;
    let (_, log) = engine
        .run(
            &pod,
            script("two", "cat /dev/shm/x; stat -c %a /dev/shm; hostname"),
        )
        .await;
    assert_eq!(log, format!("shared\n1777\n{}\n", pod.config().hostname));
    let other = engine.pod().await;
    assert_eq!(engine.run(&other, script("other", "ls /dev/shm")).await.1, "");
    pod.remove().await.unwrap();
    other.remove().await.unwrap();
}

async fn limits_are_set_and_changed_and_use_is_counted() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "while true; do :; done");
    container.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        memory_limit_bytes: Some(64 << 20),
        pids_limit: Some(10),
        ..Resources::default()
    };
    let info = pod.start_container(container).await.unwrap();
    let read = |file: &str| {
        let found = engine
            .cgroup_dirs()
            .into_iter()
            .map(|dir| dir.join(format!("pod{}", pod.uid())).join(&info.id).join(file));
        found
            .filter_map(|path| fs::read_to_string(path).ok())
            .next()
            .unwrap()
            .trim()
            .to_owned()
    };
    let v2 = fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok();
    let (memory, cpu) = if v2 {
        ("memory.max", "cpu.max")
    } else {
        ("memory.limit_in_bytes", "cpu.cfs_quota_us")
    };
    assert_eq!(read(memory), (64 << 20).to_string());
    assert!(read(cpu).starts_with("20000"));
    assert_eq!(read("pids.max"), "10");
    until("processor time is counted", || {
        pod.stats(&info.id).unwrap().cpu_nanoseconds > 10_000_000
    })
    .await;
    let stats = pod.stats(&info.id).unwrap();
    assert!(
        stats.memory_bytes > 0 && stats.working_set_bytes <= stats.memory_bytes && stats.pids >= 1,
        "{stats:?}"
    );
    let update = Resources {
        memory_limit_bytes: Some(128 << 20),
        cpu_quota_us: Some(-1),
        ..Resources::default()
    };
    pod.update(&info.id, &update).unwrap();
    assert_eq!(read(memory), (128 << 20).to_string());
    assert!(pod.update("nosuch", &update).is_err());
    pod.remove().await.unwrap();
}

async fn a_log_is_rotated_and_read_as_one() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let path = engine.dir.path().join("0.log");
    let mut container = script("c", "seq 1 20000");
    container.log = Some(LogConfig {
        max_bytes: 100_000,
        max_files: 4,
        ..LogConfig::new(&path)
    });
    let info = pod.start_container(container).await.unwrap();
    engine.exit(&info.id).await;
    let files = fs::read_dir(engine.dir.path()).unwrap().flatten();
    let files: Vec<_> = files
        .filter(|f| f.file_name().to_str().unwrap().starts_with("0.log"))
        .collect();
    assert_eq!(files.len(), 4);
    let mut stream = std::pin::pin!(logs::read(path.clone(), LogOptions::default()).await.unwrap());
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&20000));
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "nothing is missing and nothing twice"
    );
    pod.remove().await.unwrap();
}

async fn a_flood_in_the_log_holds_up_nobody_else() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let path = engine.dir.path().join("flood.log");
    let mut flood = script("flood", "yes flood");
    flood.log = Some(LogConfig {
        max_bytes: 1 << 20,
        max_files: 2,
        ..LogConfig::new(&path)
    });
    let flood = pod.start_container(flood).await.unwrap();
    for n in 0..5 {
        let began = std::time::Instant::now();
        let (exit, _) = engine.run(&pod, script(&format!("c{n}"), "true")).await;
        assert_eq!(exit.exit_code, 0);
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    // It is gone for a moment whenever it is rotated.
    let there = async {
        while fs::metadata(&path).is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(there).await;
    pod.signal(&flood.id, libc_signal("KILL"), true).await.unwrap();
    engine.exit(&flood.id).await;
    pod.remove().await.unwrap();
}

async fn a_log_is_followed_to_the_end_of_its_container() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let path = engine.dir.path().join("c.log");
    let mut container = script("c", "for i in 1 2 3; do echo $i; sleep 0.05; done; echo -n end");
    container.log = Some(LogConfig::new(&path));
    let info = pod.start_container(container).await.unwrap();
    let end = tokio_util::sync::CancellationToken::new();
    let options = LogOptions {
        follow: Some(end.clone()),
        ..LogOptions::default()
    };
    let stream = logs::read(path.clone(), options).await.unwrap();
    let reader = tokio::spawn(async move {
        let chunks: Vec<_> = stream.map(|chunk| chunk.unwrap().to_vec()).collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    });
    engine.exit(&info.id).await;
    end.cancel();
    assert_eq!(within(reader).await.unwrap(), "1\n2\n3\nend");
    pod.remove().await.unwrap();
}

async fn what_is_not_permitted_here_is_left_out() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "cat /proc/self/oom_score_adj; ulimit -n; ulimit -c");
    container.oom_score_adj = Some(777);
    container.rlimits = vec![
        Rlimit {
            kind: RlimitKind::Nofile,
            soft: 512,
            hard: 600,
        },
        Rlimit {
            kind: RlimitKind::Core,
            soft: 0,
            hard: 0,
        },
    ];
    let (_, log) = engine.run(&pod, container).await;
    assert_eq!(log, "777\n512\n0\n");
    // With CAP_SYS_RESOURCE this is done, without it is not; it starts either way.
    let mut container = script("d", "true");
    container.oom_score_adj = Some(-900);
    container.rlimits = vec![Rlimit {
        kind: RlimitKind::Nproc,
        soft: 1 << 30,
        hard: 1 << 30,
    }];
    assert_eq!(engine.run(&pod, container).await.0.exit_code, 0);
    pod.remove().await.unwrap();
}

async fn a_removed_container_leaves_only_its_log() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let running = pod
        .start_container(script("running", "sleep 1000"))
        .await
        .unwrap();
    assert!(pod.remove_container(&running.id).await.is_err());
    let (exit, log) = engine
        .run(&pod, script("c", "echo kept; dd if=/dev/zero of=/big count=100"))
        .await;
    let info = pod
        .containers()
        .into_iter()
        .find(|info| info.name == "c")
        .unwrap();
    assert_eq!(info.state, ContainerState::Exited(exit));
    let bundle = engine
        .dir
        .path()
        .join("state/pods")
        .join(pod.uid())
        .join("containers")
        .join(&info.id);
    assert!(bundle.join("upper/big").exists());
    pod.remove_container(&info.id).await.unwrap();
    assert!(!bundle.exists());
    for dir in engine.cgroup_dirs() {
        assert!(!dir.join(format!("pod{}", pod.uid())).join(&info.id).exists());
    }
    assert_eq!(pod.containers().len(), 1);
    assert!(log.starts_with("kept"));
    assert!(engine.dir.path().join("c.log").exists());
    pod.remove().await.unwrap();
}
