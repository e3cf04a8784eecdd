//! `stead service`: where Services are reached, in minikube's table; and the browser.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::bail;

use super::{block_on, print};
use crate::cli;
use crate::control::ServiceRow;
use crate::control::client::Control;
use crate::place::Place;

/// Does what is said of Services.
pub(super) fn service(place: &Place, options: cli::Service) -> anyhow::Result<()> {
    block_on(async {
        let mut control = Control::of_running(place).await?;
        if let Some(cli::ServiceCommand::List { namespace }) = &options.what {
            let mut services = control.services().await?;
            services.retain(|service| {
                namespace
                    .as_ref()
                    .is_none_or(|wanted| *wanted == service.namespace)
            });
            if services.is_empty() {
                let place = namespace
                    .as_deref()
                    .map_or_else(String::new, |name| format!(" in {name:?}"));
                bail!("there is no service{place}; see `kubectl get services -A`");
            }
            return print(table(&services).trim_end());
        }
        // The command line has one of both.
        let name = options.name.as_deref().unwrap_or_default();
        let namespace = options.namespace.as_str();
        if let Some(word) = [name, namespace].into_iter().find(|word| !is_name(word)) {
            bail!(
                "{word:?} is no name of a service or namespace; see `stead{} service list`",
                place.flag()
            );
        }
        let found = control.service(namespace, name, options.wait).await?;
        let Some(service) = found else {
            bail!(
                "there is no service {name:?} in the namespace {namespace:?}; `stead{} service list` shows all, and \
                 `--namespace` names another namespace",
                place.flag()
            )
        };
        check(&service, options.wait)?;
        let urls = service.ports.iter().filter_map(|port| port.url.clone());
        let urls: Vec<String> = urls.collect();
        if options.url {
            return print(&urls.join("\n"));
        }
        print(table(std::slice::from_ref(&service)).trim_end())?;
        let pages = urls.iter().filter(|url| url.starts_with("http"));
        match browser() {
            Some(browser) => pages.into_iter().try_for_each(|url| open(&browser, url)),
            None => Ok(()),
        }
    })
}

/// Names go into a path as they are.
fn is_name(word: &str) -> bool {
    !word.is_empty()
        && word
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.'))
}

/// What keeps a Service from being reached, and what to do.
fn check(service: &ServiceRow, waited: u64) -> anyhow::Result<()> {
    let ServiceRow { namespace, name, .. } = service;
    if service.ports.iter().all(|port| port.url.is_none()) {
        let why = match service.kind.as_str() {
            "ExternalName" => "only a name for another one",
            _ => "headless: its pods have addresses and names, and it has none",
        };
        bail!(
            "the service {namespace}/{name} is {why}; for one that can be opened: kubectl expose service -n {namespace} \
             {name} --name {name}-web --type LoadBalancer"
        );
    }
    if service.ready == 0 {
        bail!(
            "the service {namespace}/{name} has no ready pod (waited {waited} s); see `kubectl describe service -n \
             {namespace} {name}` for its selector, `kubectl get pods -n {namespace}` for the pods, and wait for them \
             with `--wait SECONDS`"
        );
    }
    Ok(())
}

/// A table as minikube prints it.
fn table(services: &[ServiceRow]) -> String {
    let mut rows = Vec::new();
    for service in services {
        let mut first = [service.namespace.clone(), service.name.clone()];
        if service.ports.is_empty() {
            let [namespace, name] = std::mem::take(&mut first);
            rows.push([namespace, name, String::new(), "none".to_owned()]);
        }
        for port in &service.ports {
            let [namespace, name] = std::mem::take(&mut first);
            let url = port.url.clone().unwrap_or_else(|| "none (headless)".to_owned());
            rows.push([namespace, name, port.target.clone(), url]);
        }
    }
    let head = ["NAMESPACE", "NAME", "TARGET PORT", "URL"].map(str::to_owned);
    let width = |at: usize| {
        let cells = std::iter::once(&head).chain(&rows);
        cells.map(|row| row[at].chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let rule = format!("|{}|\n", widths.map(|width| "-".repeat(width + 2)).join("|"));
    let line = |cells: [String; 4]| format!("|{}|\n", cells.join("|"));
    let mut text = rule.clone();
    text += &line(std::array::from_fn(|at| {
        format!(" {:^1$} ", head[at], widths[at])
    }));
    text += &rule;
    for row in &rows {
        text += &line(std::array::from_fn(|at| format!(" {:1$} ", row[at], widths[at])));
    }
    text + &rule
}

/// What opens pages, where there is somebody to look at them.
fn browser() -> Option<PathBuf> {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()));
    if !has_display || !std::io::stdout().is_terminal() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("xdg-open"))
        .find(|program| program.is_file())
}

fn open(browser: &PathBuf, url: &str) -> anyhow::Result<()> {
    print(&format!("Opening {url} in the default browser..."))?;
    let opened = Command::new(browser)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !opened.is_ok_and(|status| status.success()) {
        print("The browser did not open; the address above can be opened by hand.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PortRow;

    fn service(name: &str, ports: &[(&str, Option<&str>)]) -> ServiceRow {
        ServiceRow {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            kind: "ClusterIP".to_owned(),
            address: None,
            is_pending: false,
            ready: 1,
            ports: ports
                .iter()
                .map(|(target, url)| PortRow {
                    target: (*target).to_owned(),
                    url: url.map(str::to_owned),
                    port: 80,
                    is_tcp: true,
                })
                .collect(),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_port() {
        let services = [
            service(
                "app",
                &[
                    ("http/80", Some("http://10.0.0.1:80")),
                    ("443", Some("https://10.0.0.1:443")),
                ],
            ),
            service("app-headless", &[("80", None)]),
        ];
        let expected = "\
|-----------|--------------|-------------|----------------------|
| NAMESPACE |     NAME     | TARGET PORT |         URL          |
|-----------|--------------|-------------|----------------------|
| default   | app          | http/80     | http://10.0.0.1:80   |
|           |              | 443         | https://10.0.0.1:443 |
| default   | app-headless | 80          | none (headless)      |
|-----------|--------------|-------------|----------------------|
";
        assert_eq!(table(&services), expected);
    }

    #[test]
    fn what_cannot_be_reached_is_said_why() {
        let why = |service: &ServiceRow| check(service, 2).map_err(|error| error.to_string());
        let ready = service("app", &[("80", Some("http://10.0.0.1:80"))]);
        assert_eq!(why(&ready), Ok(()));
        let unready = ServiceRow { ready: 0, ..ready };
        assert!(why(&unready).is_err_and(|why| why.contains("no ready pod (waited 2 s)")));
        assert!(why(&service("app", &[("80", None)])).is_err_and(|why| why.contains("is headless")));
    }
}
