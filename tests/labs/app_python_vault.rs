//! `examples/app-python-vault`: pods get an agent by a webhook, it logs in to Vault as their service account, and the
//! app reads what it writes.

use anyhow::{Context, Result, ensure};
use stead_tests::console::Said;

use crate::{all, check_column, column, numbers, table};

pub(crate) fn check(said: &[Said]) -> Result<()> {
    // Vault is there, and sealed; and later unsealed.
    let tables = all(said, "kubectl get pods,statefulsets");
    ensure!(tables.len() == 2, "{tables:?}");
    let pods = table(tables[0], "pod/vault-0")?;
    check_column(pods, "READY", &["0/1", "1/1"])?;
    check_column(pods, "STATUS", &["Running"; 2])?;
    check_column(
        table(tables[0], "deployment.apps/vault-agent-injector")?,
        "READY",
        &["1/1"],
    )?;
    let services = table(tables[0], "service/kubernetes")?;
    check_column(
        services,
        "NAME",
        &[
            "kubernetes",
            "vault",
            "vault-agent-injector-svc",
            "vault-internal",
        ]
        .map(|name| format!("service/{name}"))
        .each_ref()
        .map(String::as_str),
    )?;
    check_column(
        services,
        "PORT(S)",
        &["443/TCP", "8200/TCP,8201/TCP", "443/TCP", "8200/TCP,8201/TCP"],
    )?;
    ensure!(column(services, "CLUSTER-IP")?[3] == "None", "{services}");

    // The app has agents, and Vault none.
    let pods = table(tables[1], "pod/app-python-0")?;
    let ready = column(pods, "READY")?;
    ensure!(ready[..2] == ["2/2"; 2] && ready[2..] == ["1/1"; 2], "{pods}");
    check_column(pods, "STATUS", &["Running"; 4])?;
    let claims = table(tables[1], "persistentvolumeclaim/counter")?;
    let names = ["counter-app-python-0", "counter-app-python-1", "data-vault-0"]
        .map(|name| format!("persistentvolumeclaim/{name}"));
    check_column(claims, "NAME", &names.each_ref().map(String::as_str))?;
    check_column(claims, "CAPACITY", &["10Mi", "10Mi", "64Mi"])?;
    let services = table(tables[1], "service/app-python")?;
    let (kinds, ports) = (column(services, "TYPE")?, column(services, "PORT(S)")?);
    ensure!(
        kinds[0] == "LoadBalancer" && ports[0].starts_with("5000:3"),
        "{services}"
    );

    let secrets = all(said, "cat /vault/secrets/database-config.txt");
    let first = "postgresql://db-readonly-username:db-secret-password@postgres:5432/visits\n";
    ensure!(secrets[0] == first.repeat(2), "{secrets:?}");
    let second = "postgresql://another-username:another-password@postgres:5432/visits\n";
    let renewed = all(said, "grep another");
    ensure!(renewed == [second.repeat(2)], "{renewed:?}");
    let accounts = all(said, "$POD/account").concat();
    ensure!(
        accounts
            == "app-python-0 signs in as db-readonly-username\napp-python-0 signs in as another-username\n",
        "{accounts}"
    );

    // What was counted, and what Vault knew, is there again.
    let counts = numbers(all(said, "cat /assets/visits;")[0])?;
    ensure!(counts == [2, 3], "{counts:?}");
    let again = all(said, "cat /assets/visits /vault/secrets")
        .pop()
        .context("nothing after the restart")?;
    ensure!(again == format!("2\n{second}3\n{second}"), "{again}");
    Ok(())
}
