//! `stead status`: the server, the node and the pods.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::{block_on, print};
use crate::cli;
use crate::control::Status;
use crate::control::client::Control;
use crate::place::Place;

/// What a stopped cluster's status exits with, as a service's does.
pub(super) const STOPPED: u8 = 3;

/// Prints how the cluster of a place is.
pub(super) fn status(place: &Place, options: &cli::Status) -> anyhow::Result<ExitCode> {
    let status = block_on(async {
        match Control::connect(place).await? {
            Some(mut control) => control.status().await.map(Some),
            None => Ok(None),
        }
    })?;
    match (status, options.output) {
        (Some(status), Some(cli::Output::Json)) => print(&serde_json::to_string_pretty(&status)?)?,
        (Some(status), None) => print(table(place, &status).trim_end())?,
        (None, Some(cli::Output::Json)) => {
            print(&serde_json::to_string_pretty(
                &serde_json::json!({"server": null, "node": null, "pods": []}),
            )?)?;
            return Ok(ExitCode::from(STOPPED));
        }
        (None, None) => {
            print(&format!(
                "cluster  {}\nserver   stopped; start it with `stead{} up`",
                place.name(),
                place.flag()
            ))?;
            return Ok(ExitCode::from(STOPPED));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(place: &Place, status: &Status) -> String {
    let server = &status.server;
    let node = if status.node.ready { "Ready" } else { "NotReady" };
    let mut text = format!(
        "cluster  {}\nserver   running, process {}, {}, {}\nnode     {}, {node}\n",
        place.name(),
        server.pid,
        server.address,
        server.version,
        status.node.name
    );
    for warning in &status.warnings {
        // Writing to a text does not fail.
        let _ = writeln!(text, "warning  {warning}");
    }
    if !status.stateful_sets.is_empty() {
        let mut rows = vec![["NAMESPACE", "STATEFULSET", "READY", "CLAIMS"].map(str::to_owned)];
        rows.extend(status.stateful_sets.iter().map(|set| {
            let claims = match set.claims {
                0 => "none".to_owned(),
                claims => format!("{}/{claims} bound", set.bound),
            };
            let ready = format!("{}/{}", set.ready, set.replicas);
            [set.namespace.clone(), set.name.clone(), ready, claims]
        }));
        text.push('\n');
        text += &columns(&rows);
    }
    if status.pods.is_empty() {
        text.push_str("pods     none");
        return text;
    }
    text.push('\n');
    let mut rows = vec![["NAMESPACE", "POD", "SHIM", "CONTAINERS"].map(str::to_owned)];
    for pod in &status.pods {
        let containers = pod
            .containers
            .iter()
            .map(|container| format!("{} ({})", container.name, container.pid));
        let containers = containers.collect::<Vec<_>>().join(", ");
        rows.push([
            pod.namespace.clone(),
            pod.name.clone(),
            pod.shim_pid.to_string(),
            containers,
        ]);
    }
    text + &columns(&rows)
}

/// Rows with their columns aligned, three spaces apart, as kubectl prints them.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_are_aligned() {
        let rows = [["NAME", "AGE"], ["visits-0", "5s"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "NAME       AGE\nvisits-0   5s\n");
    }
}
