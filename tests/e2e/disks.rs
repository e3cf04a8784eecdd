//! Data directories that are damaged, foreign or full.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, Machine, eventually, on_a_machine};

use crate::footprint::Footprint;
use crate::manifests::{locking_set, pod};
use crate::{Tests, check_contains};

pub(crate) const TESTS: Tests = &[
    (
        "disks: a damaged data directory is refused and left alone",
        damaged,
    ),
    (
        "disks: a foreign data directory is refused and left alone",
        foreign,
    ),
    ("disks: a full disk refuses writes until there is room", full),
];

/// `stead up`, which must fail; what it says is returned.
fn refused(cluster: &Cluster) -> Result<String> {
    let config = cluster.kubeconfig().display();
    let outcome = cluster
        .stead(&format!("up --detach --kubeconfig {config}"))?
        .fails()?;
    ensure!(!outcome.stderr.contains("panicked"), "{outcome}");
    Ok(outcome.stderr)
}

/// The files below a directory with their contents, but for the server's log and lock.
fn contents(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {dir:?}"))? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(contents(&path)?);
        } else if kind.is_file() && !path.ends_with("server.log") && !path.ends_with("lock") {
            files.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(files)
}

/// The first file of a directory whose name begins so.
fn file(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let found = paths.into_iter().find(named);
    found.with_context(|| format!("no {prefix}… in {dir:?}"))
}

fn damaged() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        cluster.up()?;
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&locking_set("web", 1, &[]))?;
        cluster.rolled_out("web")?;
        cluster.down()?;
        let data = cluster.data_dir();
        let log = file(&data.join("store"), "log-")?;
        let index = file(&data.join("images"), "names")?;
        let whole = contents(data)?;
        let before = Footprint::of(&cluster)?;
        let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 0x10;
        let garble = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
        type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
        let cases: [(&Path, Damage, &str); 7] = [
            (&log, &flip(2000), "is damaged at byte"),
            (&log, &flip(8), "format version"),
            (
                &log,
                &|bytes| *bytes = b"something else".to_vec(),
                "is not a file of the store",
            ),
            (&data.join("cluster.json"), &garble, "cluster.json is damaged"),
            (
                &data.join("cluster.json"),
                &|bytes| {
                    let text = String::from_utf8_lossy(bytes).replace("\"format\": 1", "\"format\": 2");
                    *bytes = text.into_bytes();
                },
                "newer stead",
            ),
            (&index, &garble, "open the images"),
            (&data.join("pki/ca.key"), &garble, "ca.key"),
        ];
        for (path, damage, said) in cases {
            let mut bytes = whole.get(path).with_context(|| format!("no {path:?}"))?.clone();
            damage(&mut bytes);
            ensure!(Some(&bytes) != whole.get(path), "{said}: nothing was changed");
            fs::write(path, bytes)?;
            let found = contents(data)?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            check_contains(&refused(&cluster)?, &[said, &name])?;
            ensure!(contents(data)? == found, "{said}: files were changed");
            before.returns(&cluster).context(said)?;
            fs::write(path, &whole[path])?;
        }
        // Without these nobody could speak to the cluster; they are not made anew.
        for name in ["ca.crt", "ca.key", "sa.key"] {
            let path = data.join("pki").join(name);
            fs::remove_file(&path)?;
            check_contains(&refused(&cluster)?, &[name, "is missing", "backup"])?;
            ensure!(!path.exists(), "{name} was made");
            before.returns(&cluster).context(name)?;
            fs::write(&path, &whole[&path])?;
        }
        cluster.up()?;
        cluster.wait_for("pod/web-0", "condition=Ready")?;
        cluster.delete()
    })
}

fn foreign() -> Result<()> {
    on_a_machine(|machine| {
        let dir = machine.dir().join("documents");
        fs::create_dir(&dir)?;
        fs::write(dir.join("thesis.txt"), "years of work")?;
        let cluster = Cluster::new(machine, "documents")?;
        let said = refused(&cluster)?;
        check_contains(
            &said,
            &["documents is not a data directory of stead", "thesis.txt"],
        )?;
        cluster.stead("delete --yes")?.ok()?;
        ensure!(fs::read_to_string(dir.join("thesis.txt"))? == "years of work");
        ensure!(fs::read_dir(&dir)?.count() == 1);

        let file = Cluster::new(machine, "documents/thesis.txt")?;
        check_contains(&refused(&file)?, &["data directory", "thesis.txt", "File exists"])?;
        ensure!(fs::read_to_string(dir.join("thesis.txt"))? == "years of work");
        fs::remove_dir_all(dir)?;
        Ok(())
    })
}

/// Where a small disk of the machine's own is mounted.
fn mount(machine: &Machine, dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let dir = dir.display();
    machine
        .run(&format!("mount -t tmpfs -o size=48m,mode=700 small {dir}"))
        .ok()
        .map(drop)
}

fn full() -> Result<()> {
    on_a_machine(|machine| {
        let cluster = Cluster::new(machine, "data")?;
        mount(machine, cluster.data_dir())?;
        cluster.up()?;
        cluster.load(&Image::new("tool:1"))?;
        cluster.apply(&locking_set("web", 2, &[]))?;
        cluster.rolled_out("web")?;
        let uids = cluster.uids(&["web-0", "web-1"])?;
        let pid = cluster.server_pid()?;
        let mut changes = cluster.watch("configmaps")?;
        fill(&cluster)?;

        // The log has taken some space ahead; then there is no more.
        let mut written = Vec::new();
        let refusal = loop {
            ensure!(written.len() < 100, "the disk is not full");
            let name = format!("c{}", written.len());
            let filling = "x".repeat(20_000);
            let create = format!("create configmap {name} --from-literal=filling={filling}");
            let outcome = cluster.kubectl(&create).run()?;
            if outcome.code != 0 {
                break outcome;
            }
            written.push(name);
        };
        refusal.says(&["the disk is full"])?;
        ensure!(!refusal.stderr.contains("panicked"), "{refusal}");
        let refused = format!("c{}", written.len());
        cluster
            .kubectl(&format!("get configmap {refused}"))
            .fails()?
            .says(&["not found"])?;

        // What was acknowledged is there, for readers and watchers; pods run on.
        for name in &written {
            cluster.kubectl(&format!("get configmap {name}")).ok()?;
            while changes.next()?.1["metadata"]["name"] != name.as_str() {}
        }
        cluster.in_pod("web-0", "cat /data/starts")?;
        cluster.kubectl("logs web-0").ok()?;
        // A container that ends meanwhile cannot be told of, and may not start again.
        let shims = cluster.status()?["pods"].clone();
        let container = shims[0]["containers"][0]["pid"].to_string();
        machine.run(&format!("kill -KILL {container}")).ok()?;

        make_room(&cluster)?;
        // Nothing was restarted, and all is as it should be.
        eventually("writes go on", || {
            cluster
                .kubectl(&format!("create configmap {refused} --from-literal=a=b"))
                .ok()
        })?;
        while changes.next()?.1["metadata"]["name"] != refused.as_str() {}
        ensure!(cluster.server_pid()? == pid, "the server was restarted");
        cluster.apply(&pod("new", "exec sleep 1000000", &[]))?;
        for pod in ["new", "web-0", "web-1"] {
            cluster.wait_for(&format!("pod/{pod}"), "condition=Ready")?;
        }
        ensure!(cluster.uids(&["web-0", "web-1"])? == uids);

        // A server that finds the disk full serves what there is.
        fill(&cluster)?;
        cluster.kill_server()?;
        cluster.up()?;
        ensure!(cluster.uids(&["web-0", "web-1"])? == uids);
        make_room(&cluster)?;
        cluster.delete()?;
        machine
            .run(&format!("umount {}", cluster.data_dir().display()))
            .ok()?;
        fs::remove_dir(cluster.data_dir())?;
        Ok(())
    })
}

/// Leaves no room on the cluster's disk.
fn fill(cluster: &Cluster) -> Result<()> {
    let file = cluster.data_dir().join("filling");
    let dd = format!("dd if=/dev/zero of={} bs=64k", file.display());
    cluster.machine.run(&dd).fails()?.says(&["No space left"])
}

/// Removes what takes the room.
fn make_room(cluster: &Cluster) -> Result<()> {
    let file = cluster.data_dir().join("filling");
    cluster
        .machine
        .run(&format!("rm {}", file.display()))
        .ok()
        .map(drop)
}
