//! Lifecycle hooks ("Container Lifecycle Hooks").

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use stead_runtime::ExecConfig;

use super::{ADDRESS, Jobs};
use crate::pod::wanted::find;
use crate::probe::{Kind, Outcome, Probe, Prober, check, http_target};

impl Jobs {
    /// Runs a lifecycle hook in or against a container.
    pub(crate) async fn run_hook(
        &self,
        sandbox: &stead_runtime::Pod,
        name: &str,
        id: &str,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        let failed = |kind: &str, what: &str, error: &str, output: &str| {
            format!(
                "{kind} lifecycle hook ({what}) for Container \"{name}\" in Pod \"{}_{}({})\" failed - error: {error}, message: {output:?}",
                self.name(),
                self.namespace(),
                self.uid(),
            )
        };
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let shown = command.join(" ");
            let listed = format!("[{shown}]");
            return match sandbox.exec_sync(id, ExecConfig::new(command), None, 4096).await {
                Ok(output) if output.exit_code == 0 => Ok(()),
                Ok(output) => {
                    let error = format!(
                        "command '{shown}' exited with {}: {}",
                        output.exit_code,
                        String::from_utf8_lossy(&output.stderr)
                    );
                    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                    Err(failed("Exec", &listed, &error, &text))
                }
                Err(error) => Err(failed("Exec", &listed, &error.to_string(), "")),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        if let Some(http) = &hook.http_get {
            let container = find(&self.pod, name).map(|(container, _)| container);
            let target = container.map_or_else(
                || Err(format!("no container {name}")),
                |container| http_target(http, container),
            );
            let probe = Probe {
                kind: Kind::Liveness,
                target: target
                    .map_err(|why| failed("HTTP", http.path.as_deref().unwrap_or("/"), &why, ""))?,
                initial_delay: Duration::ZERO,
                period: Duration::from_secs(1),
                timeout: Duration::from_secs(30),
                success_threshold: 1,
                failure_threshold: 1,
                grace: None,
            };
            let address = sandbox
                .config()
                .annotations
                .get(ADDRESS)
                .and_then(|ip| ip.parse().ok());
            let ip = address.unwrap_or(self.node.config.node_ip);
            let prober = Prober {
                pod: sandbox.clone(),
                container: id.to_owned(),
                ip: ip.into(),
            };
            return match check(&prober, &probe).await {
                Outcome::Success => Ok(()),
                Outcome::Failure(why) | Outcome::Unknown(why) => {
                    Err(failed("HTTP", http.path.as_deref().unwrap_or("/"), &why, ""))
                }
            };
        }
        Ok(())
    }
}
