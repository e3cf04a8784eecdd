//! A case of `tests/golden/controllers`, as its file says it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::pods::{Naming, Order, PodEvent};

/// A case: steps, each with what came of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Its name, which is that of its file.
    pub scenario: String,
    /// Whether the order between pods counts.
    pub order: Order,
    /// How the pods are called; as they are, if nothing is said.
    #[serde(default)]
    pub pods: Naming,
    /// What is made before the first step.
    #[serde(default)]
    pub objects: Vec<Call>,
    /// What `state` shows.
    pub see: Vec<See>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// The events that controllers record: kind, name, type, reason and message.
    pub events: Vec<[String; 5]>,
    /// Beginnings of messages of events that may be missing.
    #[serde(default)]
    pub may_miss: Vec<String>,
}

/// A request.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Its path, with placeholders.
    pub path: String,
    /// Its body, with placeholders.
    #[serde(default)]
    pub body: Value,
    /// Which kind of patch it is.
    #[serde(default, rename = "type")]
    pub patch: String,
    /// Seconds that pass before it.
    #[serde(default)]
    pub delay: f64,
}

/// What is looked at.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum See {
    /// An object or a list.
    Path(String),
    /// A part of a list, or more of an object than is usual.
    Part {
        /// Its path, with placeholders.
        path: String,
        /// Only objects whose name begins with the namespace's.
        #[serde(default)]
        mine: bool,
        /// Also the certificates that every namespace has.
        #[serde(default)]
        all: bool,
        /// The fields to show beside the usual ones.
        fields: Option<Vec<String>>,
    },
}

/// Requests, and what comes of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub step: String,
    /// The requests.
    #[serde(rename = "do")]
    pub calls: Vec<Call>,
    /// Their answers.
    pub answers: Vec<Expected>,
    /// What becomes of pods.
    pub pod_events: Vec<PodEvent>,
    /// What each path shows then. A number is the code of the answer.
    pub state: BTreeMap<String, Value>,
    /// Seconds that this takes at the least.
    #[serde(default)]
    pub not_before: f64,
    /// What holds all the time.
    pub bounds: Option<Bounds>,
}

/// How many pods there are at the most, and ready ones at the least. Those on their way out do not count.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// At the most.
    pub max_active: usize,
    /// At the least.
    pub min_ready: usize,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Expected {
    /// Its HTTP code.
    pub code: u16,
    /// Why it was refused.
    pub reason: Option<String>,
    /// The same, in words.
    pub message: Option<String>,
}

impl Case {
    /// Reads all cases of a folder whose names begin with one of these words.
    ///
    /// # Errors
    /// When a file is not a case, or there is none for a word.
    pub fn read_all(dir: &Path, words: &[&str]) -> Result<Vec<Self>> {
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .with_context(|| format!("list {dir:?}"))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        let mut cases = Vec::new();
        for word in words {
            let before = cases.len();
            for file in &files {
                let name = file
                    .file_stem()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                if name.starts_with(word) {
                    let text = std::fs::read_to_string(file)?;
                    cases.push(serde_json::from_str(&text).with_context(|| format!("read {file:?}"))?);
                }
            }
            anyhow::ensure!(cases.len() > before, "no case {word}… in {dir:?}");
        }
        Ok(cases)
    }
}

impl See {
    /// The path that is looked at, with placeholders.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) | Self::Part { path, .. } => path,
        }
    }
}
