//! Tests of the harness itself: machines are apart from each other and from the computer they are on, and
//! what is left on them is found. And of how recordings are compared.

mod lives;
mod replays;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Machine, Outside, Test, eventually, kubectl, on_a_machine};

fn main() -> ExitCode {
    let mut tests: Vec<Test> = vec![
        ("a machine has a network of its own", network),
        ("a machine has processes of its own", processes),
        ("a machine is as stock Debian is", settings),
        ("what is left behind is found", leftovers),
        ("nothing outlives a machine", end),
        ("two machines can be the same", twins),
        ("a long program is followed and ended", streams),
        ("a program that takes too long is ended", limits),
        ("kubectl is found in two versions", versions),
        ("an image is made of files of this machine", images),
    ];
    tests.extend(replays::TESTS);
    tests.extend(lives::TESTS);
    stead_tests::main(&tests, &[])
}

fn network() -> Result<()> {
    on_a_machine(|machine| {
        let outside = machine.outside()?;
        let server = outside.serve_once()?;
        let said = machine
            .client(&format!("curl --silent {server}"))
            .limit(std::time::Duration::from_secs(5))
            .ok()?;
        ensure!(said == "192.0.2.2\n", "{said:?}");
        let links = machine.run("ip -o link").ok()?;
        ensure!(links.lines().count() == 2, "{links}");
        outside.serve_name("outside.example", Outside::ADDRESS)?;
        let address = machine.run("getent ahostsv4 outside.example").ok()?;
        ensure!(address.starts_with("192.0.2.1 "), "{address}");
        machine.run("getent ahostsv4 elsewhere.example").fails()?;
        Ok(())
    })
}

fn processes() -> Result<()> {
    on_a_machine(|machine| {
        let processes = machine.processes()?;
        ensure!(processes.len() == 2 && processes[0] == "1 init", "{processes:?}");
        let said = machine.run("sh -c 'echo $$ $HOME'").ok()?;
        let (pid, home) = said.trim().split_once(' ').unwrap_or_default();
        ensure!(pid.parse::<u32>()? < 1000, "{said}");
        ensure!(home == machine.dir().join("home").display().to_string(), "{said}");
        // Orphans are taken care of.
        machine.run("sh -c 'true & true & true'").ok()?;
        eventually("no zombies", || {
            ensure!(machine.processes()?.len() == 2);
            Ok(())
        })
    })
}

fn settings() -> Result<()> {
    on_a_machine(|machine| {
        let forwarding = machine.run("cat /proc/sys/net/ipv4/ip_forward").ok()?;
        let localnet = machine
            .run("sh -c 'cat /proc/sys/net/ipv4/conf/*/route_localnet'")
            .ok()?;
        ensure!(
            forwarding == "0\n" && !localnet.contains('1'),
            "{forwarding} {localnet}"
        );
        // Without br_netfilter, there is no such setting, which comes to the same.
        let bridges = machine
            .run("sh -c 'cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0'")
            .ok()?;
        ensure!(bridges == "0\n", "bridge-nf-call-iptables is {bridges}");
        Ok(())
    })
}

fn leftovers() -> Result<()> {
    for (make, found) in [
        ("ip link add left type veth peer name right", "+ link left@right:"),
        (
            "ip route add blackhole 10.96.0.0/16",
            "+ route blackhole 10.96.0.0/16",
        ),
        ("nft add table ip left", "+ nft table ip left"),
        ("mount -t tmpfs left /mnt", "+ mount /mnt tmpfs"),
        ("mkdir /var/lib/left", "/var-lib/left"),
        ("touch /run/left", "/run/left"),
        ("ip netns add left", "+ netns left"),
        ("sh -c 'sleep 1000 >/dev/null 2>&1 &'", "sleep 1000"),
        ("sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'", "ip_forward:1"),
        ("ip address flush dev uplink", "- address uplink"),
    ] {
        let machine = Machine::new()?;
        machine.run(make).ok()?;
        let error = machine
            .check_nothing_is_left()
            .err()
            .map(|error| error.to_string());
        let error = error.unwrap_or_default();
        ensure!(error.contains(found), "{make:?} was found as {error:?}");
    }
    Ok(())
}

fn end() -> Result<()> {
    let machine = Machine::new()?;
    machine.run("sh -c 'sleep 1234567 >/dev/null 2>&1 &'").ok()?;
    machine
        .run("sh -c 'setsid --fork sleep 1234567 >/dev/null 2>&1'")
        .ok()?;
    // This one keeps its standard output, which is an error.
    ensure!(machine.run("setsid --fork sleep 1234567").ok().is_err());
    machine.run("mount -t tmpfs tmpfs /mnt").ok()?;
    let dir = machine.dir().to_owned();
    drop(machine);
    ensure!(!dir.exists());
    let all = std::process::Command::new("ps")
        .args(["-e", "-o", "args"])
        .output()?;
    ensure!(!String::from_utf8_lossy(&all.stdout).contains("sleep 1234567"));
    Ok(())
}

fn twins() -> Result<()> {
    let (one, two) = (Machine::new()?, Machine::new()?);
    for machine in [&one, &two] {
        machine.run("ip link add twin type veth peer name other").ok()?;
        machine.run("mkdir /var/lib/twin").ok()?;
        let serving = machine.run("sh -c 'busybox httpd -p 127.0.0.1:6443 -h /var/lib'");
        serving.ok()?;
    }
    Ok(())
}

fn streams() -> Result<()> {
    on_a_machine(|machine| {
        let mut cat = machine
            .client("sh -c 'echo begin; cat; echo end >&2; exit 3'")
            .start()?;
        cat.line("begin")?;
        cat.write("one\ntwo\n")?;
        ensure!(cat.line("tw")? == "two");
        let (rest, code) = cat.end()?;
        ensure!(rest == ["end"] && code == Some(3), "{rest:?} {code:?}");
        let mut short = machine.client("echo short").start()?;
        ensure!(short.line("never").is_err());
        Ok(())
    })
}

fn limits() -> Result<()> {
    on_a_machine(|machine| {
        let limit = std::time::Duration::from_millis(100);
        for program in [machine.run("sleep 100"), machine.client("sleep 100")] {
            let outcome = program.limit(limit).run()?;
            ensure!(outcome.code == 124, "{outcome}");
        }
        Ok(())
    })
}

fn versions() -> Result<()> {
    let (oldest, newest) = (kubectl::oldest()?, kubectl::newest()?);
    ensure!(oldest.minor == 28 && newest.minor > 31, "{oldest} and {newest}");
    Ok(())
}

fn images() -> Result<()> {
    let image = Image::new("tool:1")
        .arg("--env", "A=\"quoted\"")
        .arg("--user", "web");
    let file = image.file()?;
    ensure!(image.file()? == file);
    let listed = std::process::Command::new("tar").arg("-tf").arg(&file).output()?;
    ensure!(String::from_utf8_lossy(&listed.stdout).contains("manifest.json"));
    Ok(())
}
