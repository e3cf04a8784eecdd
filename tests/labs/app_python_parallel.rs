//! `examples/app-python-parallel`: all replicas at once, and no visit is lost among many.

use anyhow::{Result, ensure};
use stead_tests::console::Said;

use crate::{all, check_column, column, numbers, table};

pub(crate) fn check(said: &[Said]) -> Result<()> {
    let all_kinds = all(said, "kubectl get pods")[0];
    let pods = table(all_kinds, "pod/")?;
    check_column(pods, "STATUS", &["Running"; 3])?;
    let claims = table(all_kinds, "persistentvolumeclaim/")?;
    let names =
        [0, 1, 2].map(|ordinal| format!("persistentvolumeclaim/mydata-app-python-parallel-{ordinal}"));
    check_column(claims, "NAME", &names.each_ref().map(String::as_str))?;
    check_column(claims, "STATUS", &["Bound"; 3])?;
    check_column(claims, "CAPACITY", &["1Gi"; 3])?;
    let services = table(all_kinds, "service/")?;
    let port = column(services, "PORT(S)")?[0];
    ensure!(port.starts_with("5000:3"), "{port:?}");

    // All 500 were answered; none was lost, also when a pod was deleted, and when the cluster was down.
    ensure!(numbers(all(said, "[1-500]")[0])? == [500]);
    let counts = all(said, "cat visits/visits.txt");
    ensure!(counts.len() == 4 && counts[1].trim() == "506", "{counts:?}");
    for counts in [counts[0], counts[2], counts[3]] {
        let counts = numbers(counts)?;
        ensure!(
            counts.len() == 3 && counts.iter().sum::<u64>() == 506,
            "{counts:?}"
        );
        ensure!(counts.iter().all(|count| *count > 100), "{counts:?}");
    }
    Ok(())
}
