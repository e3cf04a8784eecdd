//! The server is killed at random moments, again and again, while pods come and go.
//!
//! `STEAD_CHURN_ROUNDS` sets how often, `STEAD_CHURN_SEED` which moments and changes; the seed is printed.

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use stead_tests::artifacts::Image;
use stead_tests::{Cluster, eventually, on_a_cluster};

use crate::Tests;
use crate::footprint::Footprint;
use crate::manifests::{locking_set, pod};

pub(crate) const TESTS: Tests = &[("crash: the server is killed while 20 pods come and go", churn)];

/// Pods that nobody touches, those that are scaled and deleted, and those without a set.
const KEPT: usize = 4;
const CHURNED: usize = 13;
const LONE: usize = 3;
/// How many rounds there are if nothing else is asked for, and when no further one is begun on a slow machine.
const ROUNDS: usize = 50;
const TIME: Duration = Duration::from_secs(150);
/// The longest that a server is left alone while changes are made.
const CHANGING: usize = 700;

fn churn() -> Result<()> {
    let asked = number("STEAD_CHURN_ROUNDS").map(|rounds| rounds as usize);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = number("STEAD_CHURN_SEED").unwrap_or(clock.as_micros() as u64);
    eprintln!("STEAD_CHURN_SEED={seed}");
    on_a_cluster(|cluster| {
        let before = Footprint::of(cluster)?;
        let mut churn = Churn {
            cluster,
            random: Random(seed),
            seen: BTreeMap::new(),
        };
        churn.begin()?;
        let begin = Instant::now();
        for round in 0..asked.unwrap_or(ROUNDS) {
            if asked.is_none() && begin.elapsed() > TIME {
                break;
            }
            churn
                .round()
                .with_context(|| format!("round {round} of STEAD_CHURN_SEED={seed}"))?;
        }
        churn.settle()?;
        cluster.kubectl("delete sts,pod,pvc --all").ok()?;
        before.returns(cluster)?;
        let volumes = cluster.kubectl("get pv -o name").ok()?;
        ensure!(volumes.is_empty(), "{volumes}");
        Ok(())
    })
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

struct Churn<'a> {
    cluster: &'a Cluster<'a>,
    random: Random,
    /// The container of each pod, by the pod's uid.
    seen: BTreeMap<String, String>,
}

impl Churn<'_> {
    fn begin(&mut self) -> Result<()> {
        self.cluster.load(&Image::new("tool:1"))?;
        self.cluster.apply(&locking_set("kept", KEPT, &[]))?;
        self.cluster.apply(&churned(CHURNED))?;
        for set in ["kept", "churned"] {
            self.cluster.rolled_out(set)?;
        }
        self.look()
    }

    /// Changes things, kills the server meanwhile, starts the next, and looks whether all pods are as they were.
    fn round(&mut self) -> Result<()> {
        let changes: Vec<_> = (0..3).map(|_| self.change()).collect();
        let wait = Duration::from_millis(self.random.below(CHANGING) as u64);
        let pid = self.cluster.server_pid()?;
        std::thread::scope(|scope| {
            // A change may fail, as the server is killed.
            scope.spawn(|| changes.iter().all(|change| change.make(self.cluster).is_ok()));
            std::thread::sleep(wait);
            self.cluster.machine.run(&format!("kill -KILL {pid}")).ok()
        })?;
        self.cluster.up()?;
        self.look()
            .with_context(|| format!("killed after {wait:?} of {changes:?}"))
    }

    fn change(&mut self) -> Change {
        match self.random.below(6) {
            0 | 1 => Change::Scale(self.random.below(CHURNED + 1)),
            2 => Change::DeletePod(format!("churned-{}", self.random.below(CHURNED))),
            3 => Change::DeletePod(format!("lone-{}", self.random.below(LONE))),
            4 => Change::CreatePod(format!("lone-{}", self.random.below(LONE))),
            _ => Change::DeleteSet,
        }
    }

    /// Checks that no container was restarted or replaced.
    fn look(&mut self) -> Result<()> {
        let pods = self.cluster.get("pods")?;
        for pod in pods["items"].as_array().context("no pods")? {
            let (name, uid) = (&pod["metadata"]["name"], pod["metadata"]["uid"].as_str());
            let status = &pod["status"]["containerStatuses"][0];
            let (Some(uid), Some(id)) = (uid, status["containerID"].as_str()) else {
                continue;
            };
            ensure!(status["restartCount"] == 0, "{name} was restarted: {status}");
            let known = self.seen.entry(uid.to_owned()).or_insert_with(|| id.to_owned());
            ensure!(known == id, "{name} had {known}, and now has {id}");
        }
        Ok(())
    }

    /// Waits until all 20 are there and Ready, and looks again.
    fn settle(&mut self) -> Result<()> {
        // Deleted or not: the set and the pods that were to be deleted may still be going.
        eventually("the set is whole", || {
            self.cluster.apply(&churned(CHURNED))?;
            let ready = self.cluster.field("sts churned", "/status/readyReplicas")?;
            ensure!(ready == CHURNED.to_string(), "{ready} are ready");
            Ok(())
        })?;
        for lone in 0..LONE {
            let name = format!("lone-{lone}");
            eventually("the pod is there", || {
                Change::CreatePod(name.clone()).make(self.cluster)?;
                let deleted = self
                    .cluster
                    .field(&format!("pod {name}"), "/metadata/deletionTimestamp")?;
                ensure!(deleted == "null", "it is being deleted");
                Ok(())
            })?;
            self.cluster.wait_for(&format!("pod/{name}"), "condition=Ready")?;
        }
        self.cluster.rolled_out("churned")?;
        self.look()?;
        for pod in 0..KEPT {
            let starts = self.cluster.in_pod(&format!("kept-{pod}"), "cat /data/starts")?;
            ensure!(starts == "start\n", "{starts:?}");
        }
        let pods = self.cluster.get("pods")?;
        let pods = pods["items"].as_array().context("no pods")?;
        ensure!(pods.len() == KEPT + CHURNED + LONE, "{} pods", pods.len());
        let mut addresses: Vec<_> = pods
            .iter()
            .map(|pod| pod["status"]["podIP"].to_string())
            .collect();
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == pods.len(), "{addresses:?}");
        let status = self.cluster.status()?;
        let shims = status["pods"].as_array().map_or(0, Vec::len);
        ensure!(shims == pods.len(), "{shims} shims");
        Ok(())
    }
}

/// Its claims go with its pods.
fn churned(replicas: usize) -> String {
    let retention = "persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}";
    locking_set("churned", replicas, &[retention])
}

#[derive(Debug)]
enum Change {
    Scale(usize),
    DeletePod(String),
    CreatePod(String),
    DeleteSet,
}

impl Change {
    fn make(&self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::Scale(replicas) => cluster.apply(&churned(*replicas)),
            Self::DeletePod(name) => cluster.kubectl(&format!("delete pod {name} --wait=false")).ok(),
            Self::CreatePod(name) => {
                cluster.apply(&pod(name, "trap \"exit 0\" TERM; sleep 1000000 & wait", &[]))
            }
            Self::DeleteSet => cluster.kubectl("delete sts churned --wait=false").ok(),
        }
        .map(drop)
    }
}

/// Numbers that look random, the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
