//! `stead tunnel`: Services of type LoadBalancer on 127.0.0.1.

use std::process::ExitCode;

use super::status::{STOPPED, columns};
use super::{block_on, print};
use crate::cli;
use crate::control::ForwardRow;
use crate::control::client::Control;
use crate::place::Place;

/// Does what is said of the tunnel.
pub(super) fn tunnel(place: &Place, what: cli::Tunnel) -> anyhow::Result<ExitCode> {
    block_on(async {
        let mut control = Control::of_running(place).await?;
        let forwards = match what {
            cli::Tunnel::Stop => {
                let was_open = control.close_tunnel().await?;
                let text = if was_open {
                    "The tunnel is closed."
                } else {
                    "There was no tunnel."
                };
                print(text)?;
                return Ok(ExitCode::SUCCESS);
            }
            cli::Tunnel::Start => control.open_tunnel().await?,
            cli::Tunnel::Status => control.tunnel().await?,
        };
        let Some(forwards) = forwards else {
            print(&format!(
                "There is no tunnel; open it with `stead{} tunnel start`",
                place.flag()
            ))?;
            return Ok(ExitCode::from(STOPPED));
        };
        print(&shown(&forwards))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn shown(forwards: &[ForwardRow]) -> String {
    if forwards.is_empty() {
        return "The tunnel is open. There is no service of type LoadBalancer yet; the next one is forwarded at once."
            .to_owned();
    }
    let mut rows = vec![["SERVICE", "ADDRESS", "TARGET", "STATUS"].map(str::to_owned)];
    rows.extend(forwards.iter().map(|forward| {
        let status = forward.problem.as_deref().unwrap_or("forwarded").to_owned();
        [
            forward.service.clone(),
            forward.address.clone(),
            forward.target.clone(),
            status,
        ]
    }));
    columns(&rows).trim_end().to_owned()
}
