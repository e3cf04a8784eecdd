//! Further processes in containers, attaching, terminals, ports.

use std::time::Duration;

use libtest_mimic::Trial;
use stead_runtime::config::{User, UserName};
use stead_runtime::{AttachConfig, ExecConfig, ExecError, ExecSyncError, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;
use crate::trials;

pub(crate) fn trials() -> Vec<Trial> {
    trials![
        a_process_runs_in_a_container_with_output_and_exit_code,
        a_process_reads_its_input_to_the_end,
        a_process_has_a_terminal_that_can_be_resized,
        a_process_is_who_and_where_it_was_asked_to_be,
        a_process_that_takes_too_long_is_killed,
        a_process_left_in_the_background_holds_up_nobody,
        a_process_that_cannot_be_run_is_refused_in_runcs_words,
        attached_clients_see_what_the_container_writes,
        a_containers_input_stays_open_or_ends_with_its_first_client,
        a_client_that_does_not_read_loses_nothing,
        a_container_has_a_terminal,
        a_port_of_the_pod_is_reached_from_outside,
    ]
}

async fn text(output: &mut Output) -> String {
    let mut text = String::new();
    within(output.read_to_string(&mut text)).await.unwrap();
    text
}

async fn a_process_runs_in_a_container_with_output_and_exit_code() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod
        .start_container(script("c", "echo mark > /mark; sleep 1000"))
        .await
        .unwrap()
        .id;
    let mut command = ExecConfig::new(["sh", "-c", "cat /mark; echo bad >&2; ps | wc -l; exit 5"]);
    until("the container has begun", || pod.container(&id).is_some()).await;
    let output = loop {
        let output = pod.exec_sync(&id, command.clone(), None, 1000).await.unwrap();
        // The first process may not have come so far.
        if output.stdout.starts_with(b"mark") {
            break output;
        }
    };
    assert_eq!(output.exit_code, 5);
    assert!(output.stdout.starts_with(b"mark\n"));
    assert_eq!(output.stderr, b"bad\n");
    (command.stdout, command.stderr) = (false, false);
    let mut exec = pod.exec(&id, command).await.unwrap();
    assert!(exec.stdout.is_none() && exec.stderr.is_none());
    assert_eq!(within(exec.wait()).await.unwrap(), 5);
    let long = pod
        .exec_sync(&id, ExecConfig::new(["seq", "100000"]), None, 10)
        .await
        .unwrap();
    assert_eq!(long.stdout, b"1\n2\n3\n4\n5\n");
    let mut killed = pod.exec(&id, ExecConfig::new(["sleep", "1000"])).await.unwrap();
    killed.signal(libc_signal("KILL")).await.unwrap();
    assert_eq!(within(killed.wait()).await.unwrap(), 137);
    pod.remove().await.unwrap();
}

async fn a_process_reads_its_input_to_the_end() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let config = ExecConfig {
        stdin: true,
        ..ExecConfig::new(["wc", "-c"])
    };
    let mut exec = pod.exec(&id, config).await.unwrap();
    let mut stdin = exec.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    drop(stdin);
    assert_eq!(text(exec.stdout.as_mut().unwrap()).await, "1048576\n");
    assert_eq!(within(exec.wait()).await.unwrap(), 0);
    pod.remove().await.unwrap();
}

async fn a_process_has_a_terminal_that_can_be_resized() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let script = "test -t 0 && echo terminal $TERM; read x; stty size; exit 4";
    let config = ExecConfig {
        stdin: true,
        tty: true,
        ..ExecConfig::new(["sh", "-c", script])
    };
    let mut exec = pod.exec(&id, config).await.unwrap();
    let mut stdout = exec.stdout.take().unwrap();
    let mut first = [0; 16];
    within(stdout.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"terminal xterm\r\n");
    exec.resize(33, 77).unwrap();
    exec.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!(text(&mut stdout).await, "go\r\n33 77\r\n");
    assert_eq!(within(exec.wait()).await.unwrap(), 4);
    pod.remove().await.unwrap();
}

async fn a_process_is_who_and_where_it_was_asked_to_be() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let config = ExecConfig {
        user: Some(User {
            uid: Some(UserName::Name("web".into())),
            ..User::default()
        }),
        working_dir: Some("/srv".into()),
        env: vec![("X".into(), "y".into())],
        ..ExecConfig::new([
            "sh",
            "-c",
            "id -u; id -G; pwd; echo $X $FROM_IMAGE; echo out > /dev/stdout",
        ])
    };
    let output = pod.exec_sync(&id, config, None, 1000).await.unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "33\n44 4\n/srv\ny yes\nout\n"
    );
    pod.remove().await.unwrap();
}

async fn a_process_that_takes_too_long_is_killed() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let sleep = ExecConfig::new(["sh", "-c", "exec sleep 987654"]);
    let error = pod
        .exec_sync(&id, sleep, Some(Duration::from_millis(300)), 10)
        .await
        .unwrap_err();
    assert!(matches!(error, ExecSyncError::TimedOut(_)));
    let mut ps = ExecConfig::new(["sh", "-c", "ps | grep 98765[4]"]);
    ps.stderr = false;
    loop {
        if pod
            .exec_sync(&id, ps.clone(), None, 1000)
            .await
            .unwrap()
            .exit_code
            == 1
        {
            break;
        }
    }
    pod.remove().await.unwrap();
}

async fn a_process_left_in_the_background_holds_up_nobody() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let config = ExecConfig::new(["sh", "-c", "sleep 1000 & echo started"]);
    let output = within(pod.exec_sync(&id, config, None, 1000)).await.unwrap();
    assert_eq!((output.exit_code, &output.stdout[..]), (0, &b"started\n"[..]));
    pod.remove().await.unwrap();
}

async fn a_process_that_cannot_be_run_is_refused_in_runcs_words() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let id = pod.start_container(script("c", "sleep 1000")).await.unwrap().id;
    let error = pod.exec(&id, ExecConfig::new(["nosuch"])).await.unwrap_err();
    let expected = "OCI runtime exec failed: exec failed: unable to start container process: \
        exec: \"nosuch\": executable file not found in $PATH: unknown";
    assert_eq!(error.to_string(), expected);
    let nobody = User {
        uid: Some(UserName::Name("nosuch".into())),
        ..User::default()
    };
    let config = ExecConfig {
        user: Some(nobody),
        ..ExecConfig::new(["true"])
    };
    assert!(matches!(pod.exec(&id, config).await, Err(ExecError::User(_))));
    assert!(pod.exec("nosuch", ExecConfig::new(["true"])).await.is_err());
    pod.signal(&id, libc_signal("KILL"), true).await.unwrap();
    engine.exit(&id).await;
    assert!(pod.exec(&id, ExecConfig::new(["true"])).await.is_err());
    pod.remove().await.unwrap();
}

async fn attached_clients_see_what_the_container_writes() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "read go; echo out; echo err >&2; cat");
    container.stdin = true;
    let log = engine.dir.path().join("c.log");
    container.log = Some(stead_runtime::config::LogConfig::new(&log));
    let id = pod.start_container(container).await.unwrap().id;
    let all = AttachConfig {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let mut first = pod.attach(&id, all).await.unwrap();
    let mut second = pod
        .attach(&id, AttachConfig { stdin: false, ..all })
        .await
        .unwrap();
    let gone = pod.attach(&id, all).await.unwrap();
    drop(gone);
    first
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"go\nlast\n")
        .await
        .unwrap();
    let mut seen = [0; 9];
    within(first.stdout.as_mut().unwrap().read_exact(&mut seen))
        .await
        .unwrap();
    assert_eq!(&seen, b"out\nlast\n");
    pod.signal(&id, libc_signal("KILL"), true).await.unwrap();
    engine.exit(&id).await;
    assert_eq!(text(second.stdout.as_mut().unwrap()).await, "out\nlast\n");
    assert_eq!(text(second.stderr.as_mut().unwrap()).await, "err\n");
    assert_eq!(log_text(&log).lines().filter(|line| *line == "last").count(), 1);
    assert!(pod.attach(&id, all).await.is_err());
    pod.remove().await.unwrap();
}

async fn a_containers_input_stays_open_or_ends_with_its_first_client() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let input = AttachConfig {
        stdin: true,
        ..AttachConfig::default()
    };
    let mut once = script("once", "cat > /dev/null; exit 8");
    (once.stdin, once.stdin_once) = (true, true);
    let once = pod.start_container(once).await.unwrap().id;
    drop(pod.attach(&once, input).await.unwrap());
    assert_eq!(engine.exit(&once).await.exit_code, 8);

    let mut open = script("open", "read a; read b; exit $((a + b))");
    open.stdin = true;
    let open = pod.start_container(open).await.unwrap().id;
    for number in ["20\n", "3\n"] {
        let mut client = pod.attach(&open, input).await.unwrap();
        client
            .stdin
            .as_mut()
            .unwrap()
            .write_all(number.as_bytes())
            .await
            .unwrap();
    }
    assert_eq!(engine.exit(&open).await.exit_code, 23);

    // Without an input, reading gives nothing at once.
    let (exit, _) = engine.run(&pod, script("none", "cat; exit 9")).await;
    assert_eq!(exit.exit_code, 9);
    pod.remove().await.unwrap();
}

async fn a_client_that_does_not_read_loses_nothing() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "read go; seq 1 200000");
    container.stdin = true;
    let id = pod.start_container(container).await.unwrap().id;
    let config = AttachConfig {
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let mut client = pod.attach(&id, config).await.unwrap();
    client.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(pod.container(&id).unwrap().is_running(), "its pipe is full");
    let output = text(client.stdout.as_mut().unwrap()).await;
    assert_eq!(output.lines().count(), 200_000);
    assert_eq!(engine.exit(&id).await.exit_code, 0);
    pod.remove().await.unwrap();
}

async fn a_container_has_a_terminal() {
    let mut engine = Engine::new().await;
    let pod = engine.pod().await;
    let mut container = script("c", "test -t 1 && echo terminal; read x; stty size; exit 6");
    (container.tty, container.stdin) = (true, true);
    let log = engine.dir.path().join("c.log");
    container.log = Some(stead_runtime::config::LogConfig::new(&log));
    let id = pod.start_container(container).await.unwrap().id;
    let all = AttachConfig {
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let mut client = pod.attach(&id, all).await.unwrap();
    assert!(client.stderr.is_none());
    pod.resize(&id, 12, 34).await.unwrap();
    client.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    // What is typed is echoed at once, perhaps before what the program says first.
    let output = text(client.stdout.as_mut().unwrap()).await;
    assert!(
        output.contains("go\r\n") && output.ends_with("12 34\r\n"),
        "{output:?}"
    );
    assert_eq!(engine.exit(&id).await.exit_code, 6);
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.contains("stdout F terminal\r\n"), "{lines:?}");
    let plain = pod
        .start_container(script("plain", "sleep 1000"))
        .await
        .unwrap()
        .id;
    assert!(pod.resize(&plain, 1, 1).await.is_err());
    pod.remove().await.unwrap();
}

async fn a_port_of_the_pod_is_reached_from_outside() {
    let engine = Engine::new().await;
    let pod = engine.pod().await;
    let serve = "nc -l -p 8080 -e cat & nc -6 -l -p 8081 -s ::1 -e cat 2>/dev/null & wait; sleep 1000";
    pod.start_container(script("c", serve)).await.unwrap();
    let mut stream = loop {
        // It takes a moment until it listens.
        if let Ok(stream) = pod.connect(8080).await {
            break stream;
        }
    };
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"hello");
    let error = pod.connect(9).await.unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("connection refused"),
        "{error}"
    );
    pod.remove().await.unwrap();
}
