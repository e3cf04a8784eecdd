//! A file of `tests/golden/pods`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::shown::normal;
use super::told::Told;

/// What became of one pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recording {
    /// Its name, which is that of its file.
    pub scenario: String,
    /// The pod, as it was made.
    pub pod: Value,
    /// What was done to it.
    pub actions: Vec<Action>,
    /// How long it was watched.
    pub watched_seconds: u64,
    /// What the watch showed, as [`super::snapshot`] shows it.
    pub statuses: Vec<Value>,
    /// The events about it, in the order in which each came first.
    pub events: Vec<Told>,
    /// Whether it was left in the middle of things, so that nothing is known of what came after the last status.
    #[serde(skip)]
    pub goes_on: bool,
}

/// Something done to a pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Action {
    /// How long after it was made.
    pub after_seconds: u64,
    /// What: `delete`, `evict`, or `unfinalize`, which takes its finalizers away.
    pub action: String,
}

impl Recording {
    /// Reads all of a folder.
    ///
    /// # Errors
    /// When a file is not a recording.
    pub fn read_all(dir: &Path) -> Result<Vec<Self>> {
        let entries = std::fs::read_dir(dir).with_context(|| format!("list {dir:?}"))?;
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files
            .iter()
            .map(|file| {
                let text = std::fs::read_to_string(file)?;
                Self::parse(&text).with_context(|| format!("read {file:?}"))
            })
            .collect()
    }

    /// Reads one from its text.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn parse(text: &str) -> Result<Self> {
        // Messages of statuses say `<ns>`, those of events `<namespace>`.
        let mut recording: Self = serde_json::from_str(&text.replace("<namespace>", "<ns>"))?;
        for status in &mut recording.statuses {
            *status = json!({
                "event": status["event"],
                "deleting": status["deleting"],
                "status": normal(&status["status"]),
            });
        }
        Ok(recording)
    }

    /// How many statuses were shown before anything was done to the pod.
    pub fn undisturbed(&self) -> usize {
        let shows_it = |status: &&Value| {
            status["deleting"] == true || !status["status"]["conditions"]["DisruptionTarget"].is_null()
        };
        let first = self.statuses.iter().position(|status| shows_it(&status));
        first.unwrap_or(self.statuses.len())
    }
}
