//! What Kubernetes' own end-to-end suite checks for StatefulSets (`test/e2e/apps/statefulset.go`), told anew.

mod objects;
mod order;
pub(crate) mod site;
mod updates;

use anyhow::{Result, anyhow, ensure};
use stead_tests::api::Api;
use stead_tests::artifacts::Image;
use stead_tests::on_a_cluster;

use self::site::Site;
use crate::Tests;
use crate::replays::make_namespace;

pub(crate) const TESTS: Tests = &[
    ("upstream: order, identity and the API's subresources", || {
        on_one_cluster(&[order::PARTS, objects::PARTS])
    }),
    ("upstream: updates", || on_one_cluster(&[updates::PARTS])),
];

/// A behaviour, which has a namespace of its own of this name.
type Part = (&'static str, fn(&Site<'_>) -> Result<()>);

/// Checks behaviours on one cluster, all at once: most of them wait.
fn on_one_cluster(parts: &[&[Part]]) -> Result<()> {
    on_a_cluster(|cluster| {
        cluster.load(&Image::new("tool:1").arg("--tag", "tool:2"))?;
        let api = Api::open(cluster)?;
        let run = |part: &Part| {
            let namespace = part.0.to_owned();
            make_namespace(&api, &namespace)?;
            part.1(&Site {
                cluster,
                api: &api,
                namespace,
            })
        };
        let faults: Vec<String> = std::thread::scope(|scope| {
            let parts = parts.iter().flat_map(|parts| parts.iter());
            let runs: Vec<_> = parts
                .map(|part| (part.0, scope.spawn(move || run(part))))
                .collect();
            let fault = |(name, run): (_, std::thread::ScopedJoinHandle<'_, Result<()>>)| {
                let outcome = run.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
                Some(format!("{name}: {:#}", outcome.err()?))
            };
            runs.into_iter().filter_map(fault).collect()
        });
        ensure!(faults.is_empty(), "{}", faults.join("\n\n"));
        Ok(())
    })
}
