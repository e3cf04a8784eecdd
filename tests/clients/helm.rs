//! Helm: what it says of its releases, and what is in the cluster then. The chart, in `helm/chart`, has a set with
//! claims, a Deployment, a Secret that is looked up, and hooks of every kind.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stead_tests::{Cluster, Outcome, artifacts, side_by_side};

use crate::{LIMIT, on_a_cluster_with_busybox, run, tell};

/// A Helm, and the cluster that it is for.
struct Helm<'c> {
    cluster: &'c Cluster<'c>,
    program: PathBuf,
    /// Asks for the release before, should an upgrade fail.
    or_back: &'static str,
}

type Step = fn(&Helm<'_>) -> Result<()>;

/// What is tried, one after the other.
const STEPS: [(&str, Step); 7] = [
    ("a release's life", life),
    ("an upgrade that fails", fails_and_goes_back),
    ("a release that is gone, and back", gone_and_back),
    ("releases side by side", several),
    ("what is looked up", looks_up),
    ("a hook that fails", hook_fails),
    ("what is there already", is_there),
];

pub(crate) fn check(program: PathBuf, or_back: &'static str) -> Result<()> {
    on_a_cluster_with_busybox(|cluster| {
        let name = program.file_name().unwrap_or_default().display().to_string();
        let helm = Helm {
            cluster,
            program: program.clone(),
            or_back,
        };
        for (what, step) in STEPS {
            step(&helm).with_context(|| format!("{name}: {what}"))?;
        }
        tell(&name, STEPS.len())
    })
}

impl Helm<'_> {
    /// `helm LINE`; `CHART` stands for the chart, `AND WAIT` for that it waits until all is ready.
    fn line(&self, line: &str) -> String {
        let chart = artifacts::root().join("tests/clients/helm/chart");
        let line = line
            .replace("CHART", &chart.display().to_string())
            .replace("AND WAIT", "--wait --timeout 60s");
        format!("{} {line}", self.program.display())
    }

    fn ok(&self, line: &str) -> Result<String> {
        Ok(run(self.cluster, &self.line(line), &[])?.stdout)
    }

    fn json(&self, line: &str) -> Result<Value> {
        let said = self.ok(&format!("{line} -o json"))?;
        serde_json::from_str(&said).with_context(|| format!("{line}: {said}"))
    }

    fn fails(&self, line: &str) -> Result<Outcome> {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let helm = self.cluster.machine.client(&self.line(line));
        helm.env("KUBECONFIG", kubeconfig).limit(LIMIT).fails()
    }

    /// Checks the states of a release's revisions, from the first on.
    fn history(&self, release: &str, states: &[&str]) -> Result<()> {
        let history = self.json(&format!("history {release}"))?;
        let seen: Vec<_> = history
            .as_array()
            .into_iter()
            .flatten()
            .map(|revision| revision["status"].as_str().unwrap_or_default())
            .collect();
        ensure!(seen == states, "{release}: {history}");
        Ok(())
    }

    /// The releases' names, with an option of `list`.
    fn list(&self, option: &str) -> Result<Vec<String>> {
        let list = self.json(&format!("list {option}"))?;
        let names = list.as_array().into_iter().flatten();
        Ok(names
            .map(|release| release["name"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// The hooks of a release that have run, in the order in which they began; all must have succeeded.
    fn hooks(&self, release: &str) -> Result<Vec<String>> {
        let status = self.json(&format!("status {release}"))?;
        let mut ran = Vec::new();
        for hook in status["hooks"].as_array().into_iter().flatten() {
            let (began, phase) = (&hook["last_run"]["started_at"], &hook["last_run"]["phase"]);
            if let Some(began) = began.as_str().filter(|began| !began.is_empty()) {
                ensure!(phase == "Succeeded", "{hook}");
                let name = hook["name"].as_str().unwrap_or_default();
                let name = name.strip_prefix(&format!("{release}-")).unwrap_or(name);
                ran.push((began.to_owned(), name.to_owned()));
            }
        }
        ran.sort();
        Ok(ran.into_iter().map(|(_, name)| name).collect())
    }

    fn kubectl(&self, line: &str) -> Result<String> {
        Ok(self.cluster.kubectl(line).ok()?.trim().to_owned())
    }

    /// Checks that a release's set has so many replicas, and all are ready.
    fn ready(&self, release: &str, replicas: u32) -> Result<()> {
        let line = format!("get sts {release} -o jsonpath={{.spec.replicas}}/{{.status.readyReplicas}}");
        let seen = self.kubectl(&line)?;
        ensure!(seen == format!("{replicas}/{replicas}"), "{release}: {seen}");
        Ok(())
    }

    /// Removes releases, and what Helm leaves: hooks and claims.
    fn remove(&self, releases: &str) -> Result<()> {
        self.ok(&format!("uninstall {releases} AND WAIT"))?;
        self.kubectl("delete jobs,pods,pvc --all")?;
        self.kubectl("delete configmaps --field-selector metadata.name!=kube-root-ca.crt")?;
        Ok(())
    }
}

fn life(helm: &Helm<'_>) -> Result<()> {
    let said = helm.ok("install one CHART AND WAIT --wait-for-jobs")?;
    ensure!(said.contains("one is at revision 1."), "{said}");
    helm.ready("one", 1)?;
    let hooks = helm.hooks("one")?;
    ensure!(
        hooks == ["settings", "check", "pre-install", "post-install"],
        "{hooks:?}"
    );
    let pods = helm.kubectl("get pods --no-headers")?;
    let completed = pods.lines().filter(|pod| pod.contains("Completed")).count();
    // The jobs' two; `check` is to go when it has succeeded.
    ensure!(completed == 2 && !pods.contains("one-check"), "{pods}");

    ensure!(helm.list("")? == ["one"]);
    for what in ["all", "manifest", "hooks", "notes", "metadata"] {
        let said = helm.ok(&format!("get {what} one"))?;
        ensure!(said.contains("one"), "get {what}: {said}");
    }
    let said = helm.ok("test one --logs")?;
    ensure!(
        said.contains("Succeeded") && said.trim_end().ends_with("one-0"),
        "{said}"
    );

    let said = helm.ok("upgrade one CHART --set replicas=2 AND WAIT")?;
    ensure!(said.contains("one is at revision 2."), "{said}");
    helm.ready("one", 2)?;
    let hooks = helm.hooks("one")?;
    ensure!(
        hooks == ["settings", "check", "pre-upgrade", "post-upgrade"],
        "{hooks:?}"
    );
    ensure!(helm.json("get values one")?["replicas"] == 2);
    helm.ok("upgrade --install one CHART --reuse-values AND WAIT")?;
    helm.ready("one", 2)?;
    helm.ok("rollback one 1 AND WAIT")?;
    helm.ready("one", 1)?;
    let hooks = helm.hooks("one")?;
    ensure!(
        hooks.ends_with(&["pre-rollback".to_owned(), "post-rollback".to_owned()]),
        "{hooks:?}"
    );
    helm.history("one", &["superseded", "superseded", "superseded", "deployed"])?;
    let revision = helm.kubectl("get configmap one -o jsonpath={.data.revision}")?;
    ensure!(revision == "1", "{revision}");
    helm.remove("one")
}

fn fails_and_goes_back(helm: &Helm<'_>) -> Result<()> {
    let image =
        "get deployment one -o jsonpath={.spec.template.spec.containers[0].image},{.status.readyReplicas}";
    helm.ok("install one CHART AND WAIT")?;
    let fails = format!(
        "upgrade one CHART --set image=none:1 {} --timeout 6s",
        helm.or_back
    );
    helm.fails(&fails)?.says(&["has been rolled back"])?;
    helm.history("one", &["superseded", "failed", "deployed"])?;
    let seen = helm.kubectl(image)?;
    ensure!(seen == "busybox:1.36,1", "{seen}");
    // Without that, it stays as it is, and the next one mends it.
    helm.fails("upgrade one CHART --set image=none:1 --wait --timeout 3s")?;
    let status = helm.json("status one")?;
    ensure!(status["info"]["status"] == "failed", "{status}");
    helm.ok("upgrade one CHART AND WAIT")?;
    ensure!(helm.kubectl(image)? == "busybox:1.36,1");
    helm.remove("one")
}

fn gone_and_back(helm: &Helm<'_>) -> Result<()> {
    helm.ok("install one CHART AND WAIT")?;
    helm.ok("uninstall one --keep-history AND WAIT")?;
    ensure!(helm.list("--deployed")?.is_empty());
    ensure!(helm.list("--uninstalled")? == ["one"]);
    helm.history("one", &["uninstalled"])?;
    let hooks = helm.hooks("one")?;
    ensure!(
        hooks.ends_with(&["pre-delete".to_owned(), "post-delete".to_owned()]),
        "{hooks:?}"
    );
    let left = helm
        .kubectl("get sts,deployments,services,secrets,pods -l app.kubernetes.io/managed-by=Helm -o name")?;
    ensure!(left.is_empty(), "{left}");
    let claims = helm.kubectl("get pvc -o name")?;
    ensure!(claims == "persistentvolumeclaim/data-one-0", "{claims}");
    helm.ok("rollback one 1 AND WAIT")?;
    helm.ready("one", 1)?;
    helm.remove("one")?;
    helm.fails("status one")?.says(&["not found"])?;
    Ok(())
}

fn several(helm: &Helm<'_>) -> Result<()> {
    let install = |options: String| move || helm.ok(&format!("install {options} CHART AND WAIT")).map(drop);
    let named = ["a", "b", "c"].map(|name| (name.to_owned(), install(name.to_owned())));
    side_by_side(named)?;
    helm.ok("install CHART --generate-name --create-namespace --namespace elsewhere AND WAIT")?;
    ensure!(helm.list("")? == ["a", "b", "c"]);
    let elsewhere = helm.list("--namespace elsewhere")?;
    ensure!(
        elsewhere.len() == 1 && elsewhere[0].starts_with("chart-"),
        "{elsewhere:?}"
    );
    ensure!(helm.list("--all-namespaces --filter ^[ac]")?.len() == 3);
    for name in ["a", "b", "c"] {
        let said = helm.ok(&format!("test {name} --logs"))?;
        ensure!(said.trim_end().ends_with(&format!("{name}-0")), "{said}");
    }
    helm.kubectl("delete namespace elsewhere")?;
    helm.remove("a b c")
}

fn looks_up(helm: &Helm<'_>) -> Result<()> {
    let password = |text: &str| {
        let line = text.lines().find(|line| line.trim().starts_with("password: "));
        line.map(|line| line.trim().to_owned())
    };
    helm.ok("install one CHART AND WAIT")?;
    let made = password(&helm.kubectl("get secret one -o yaml")?);
    ensure!(made.is_some());
    // Only one that asks the server knows it.
    ensure!(password(&helm.ok("template one CHART --is-upgrade --dry-run=server")?) == made);
    ensure!(password(&helm.ok("template one CHART --is-upgrade")?) != made);
    ensure!(password(&helm.ok("upgrade one CHART --dry-run=server")?) == made);
    helm.history("one", &["deployed"])?;
    helm.ok("upgrade one CHART AND WAIT")?;
    ensure!(password(&helm.kubectl("get secret one -o yaml")?) == made);
    helm.remove("one")
}

fn hook_fails(helm: &Helm<'_>) -> Result<()> {
    helm.fails("install one CHART --set fails=true AND WAIT")?
        .says(&["pre-install", "one-check"])?;
    helm.history("one", &["failed"])?;
    // It stays, so that one can look why; and what comes after it was not made.
    let pod = helm.kubectl("get pod one-check -o jsonpath={.status.phase}")?;
    ensure!(pod == "Failed", "{pod}");
    let rest = helm.kubectl("get sts,jobs -o name")?;
    ensure!(rest.is_empty(), "{rest}");
    helm.ok("upgrade --install one CHART --set fails=false AND WAIT")?;
    helm.history("one", &["superseded", "deployed"])?;
    helm.remove("one")
}

fn is_there(helm: &Helm<'_>) -> Result<()> {
    helm.kubectl("create serviceaccount one")?;
    helm.fails("install one CHART AND WAIT")?
        .says(&["one", "exists and cannot be imported into the current release"])?;
    helm.kubectl("delete serviceaccount one")?;
    helm.ok("upgrade --install one CHART AND WAIT")?;
    helm.fails("install one CHART")?.says(&["in use"])?;
    helm.remove("one")
}
