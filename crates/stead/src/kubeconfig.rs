//! The user's kubeconfig: our entries go in and come out again; all others stay as they are.
//!
//! See "Organizing Cluster Access Using kubeconfig Files".

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};
use stead_apiserver::files::write_whole;

/// What a kubeconfig needs to know of a cluster.
pub(crate) struct Access<'a> {
    /// The name of cluster, user and context.
    pub(crate) name: &'a str,
    /// `https://…`
    pub(crate) server: &'a str,
    /// Base64 of PEM, each.
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// How a kubeconfig holds files.
pub(crate) fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The file that kubectl would write to.
pub(crate) fn default_path() -> anyhow::Result<PathBuf> {
    if let Some(list) = env::var_os("KUBECONFIG").filter(|list| !list.is_empty())
        && let Some(first) = env::split_paths(&list).find(|path| !path.as_os_str().is_empty())
    {
        return std::path::absolute(&first).with_context(|| format!("find {}", first.display()));
    }
    match env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        Some(home) => Ok(home.join(".kube").join("config")),
        None => bail!("there is no home directory to keep a kubeconfig in; name a file with --kubeconfig"),
    }
}

/// Puts a cluster's entries into a file and makes its context the current one.
pub(crate) fn add_to(path: &Path, access: &Access<'_>) -> anyhow::Result<()> {
    let mut config =
        read(path)?.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}));
    add(&mut config, access).with_context(|| format!("{} is not a kubeconfig", path.display()))?;
    write(path, &config)
}

/// Takes a cluster's entries out of a file. That there are none, or no file, is no error.
pub(crate) fn remove_from(path: &Path, name: &str) -> anyhow::Result<()> {
    let Some(mut config) = read(path)? else {
        return Ok(());
    };
    if remove(&mut config, name) {
        write(path, &config)
    } else {
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("read the kubeconfig at {}", path.display()));
        }
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let config: Value = serde_saphyr::from_str(&text).with_context(|| {
        format!(
            "{} is not YAML, and is left as it is; name another file with --kubeconfig",
            path.display()
        )
    })?;
    Ok(Some(config))
}

fn write(path: &Path, config: &Value) -> anyhow::Result<()> {
    // The file that a link leads to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = serde_saphyr::to_string(config).context("write a kubeconfig as YAML")?;
    let save = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        write_whole(&path, text.as_bytes())
    };
    save().with_context(|| format!("write the kubeconfig at {}", path.display()))
}

fn add(config: &mut Value, access: &Access<'_>) -> anyhow::Result<()> {
    let name = access.name;
    let cluster = json!({"server": access.server, "certificate-authority-data": access.ca});
    let user = json!({"client-certificate-data": access.certificate, "client-key-data": access.key});
    let config = config.as_object_mut().context("it is no mapping")?;
    set(config, "clusters", name, "cluster", cluster)?;
    set(config, "users", name, "user", user)?;
    // A namespace that the user has set for the context stays.
    let namespace =
        named(config, "contexts", name).and_then(|entry| entry["context"].get("namespace").cloned());
    let mut context = json!({"cluster": name, "user": name});
    if let Some(namespace) = namespace {
        context["namespace"] = namespace;
    }
    set(config, "contexts", name, "context", context)?;
    config.insert("current-context".to_owned(), name.into());
    Ok(())
}

fn named<'v>(config: &'v Map<String, Value>, list: &str, name: &str) -> Option<&'v Value> {
    config
        .get(list)?
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == name)
}

fn set(
    config: &mut Map<String, Value>,
    list: &str,
    name: &str,
    field: &str,
    value: Value,
) -> anyhow::Result<()> {
    let entry = json!({"name": name, field: value});
    let items = config.entry(list).or_insert(Value::Null);
    if items.is_null() {
        *items = json!([]);
    }
    let items = items
        .as_array_mut()
        .with_context(|| format!("its {list} are no list"))?;
    match items.iter_mut().find(|item| item["name"] == name) {
        Some(item) => *item = entry,
        None => items.push(entry),
    }
    Ok(())
}

/// Says whether anything was there to be removed.
fn remove(config: &mut Value, name: &str) -> bool {
    let Some(config) = config.as_object_mut() else {
        return false;
    };
    let mut removed = false;
    for list in ["clusters", "users", "contexts"] {
        if let Some(items) = config.get_mut(list).and_then(Value::as_array_mut) {
            let before = items.len();
            items.retain(|item| item["name"] != name);
            removed |= items.len() != before;
        }
    }
    if config
        .get("current-context")
        .is_some_and(|current| current == name)
    {
        config.insert("current-context".to_owned(), "".into());
        removed = true;
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn access(server: &'static str) -> Access<'static> {
        Access {
            name: "stead",
            server,
            ca: "Q0E=".into(),
            certificate: "Q0VSVA==".into(),
            key: "S0VZ".into(),
        }
    }

    const OTHERS: &str = "
apiVersion: v1
kind: Config
current-context: kind
clusters:
- {name: kind, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}
contexts:
- {name: kind, context: {cluster: kind, user: kind, namespace: dev}}
users:
- {name: kind, user: {token: '0123', exec: null}}
x-mine: [1, 2]
";

    #[test]
    fn entries_are_added_replaced_and_removed_and_others_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        fs::write(&path, OTHERS).expect("a write");
        let before = read(&path).expect("YAML").expect("a config");
        add_to(&path, &access("https://127.0.0.1:6443")).expect("added");
        add_to(&path, &access("https://127.0.0.1:6444")).expect("replaced");
        let with = read(&path).expect("YAML").expect("a config");
        assert_eq!(with["current-context"], "stead");
        assert_eq!(with["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(with["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6444");
        assert_eq!(with["users"][0], before["users"][0]);
        assert_eq!(with["x-mine"], before["x-mine"]);
        assert_eq!(
            fs::metadata(&path).expect("a file").permissions().mode() & 0o777,
            0o600
        );
        remove_from(&path, "stead").expect("removed");
        let after = read(&path).expect("YAML").expect("a config");
        assert_eq!(after["current-context"], "");
        for part in ["clusters", "users", "contexts", "x-mine"] {
            assert_eq!(after[part], before[part], "{part}");
        }
    }

    #[test]
    fn a_missing_or_empty_file_is_begun() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("deep").join("config");
        remove_from(&path, "stead").expect("nothing to remove");
        add_to(&path, &access("https://127.0.0.1:6443")).expect("made");
        assert_eq!(read(&path).expect("YAML").expect("a config")["kind"], "Config");
        fs::write(&path, "\n").expect("a write");
        add_to(&path, &access("https://127.0.0.1:6443")).expect("made");
    }

    #[test]
    fn a_namespace_of_the_context_stays() {
        let mut config = json!({"contexts": [{"name": "stead", "context": {"namespace": "mine"}}]});
        add(&mut config, &access("https://127.0.0.1:6443")).expect("added");
        assert_eq!(
            config["contexts"][0]["context"],
            json!({"cluster": "stead", "user": "stead", "namespace": "mine"})
        );
    }

    #[test]
    fn rubbish_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        for rubbish in ["{", "- a\n- b\n", "clusters: 5\n"] {
            fs::write(&path, rubbish).expect("a write");
            let error = add_to(&path, &access("https://127.0.0.1:6443")).expect_err("refused");
            assert!(format!("{error:#}").contains("config"), "{error:#}");
            assert_eq!(fs::read_to_string(&path).expect("a read"), rubbish);
        }
    }
}
