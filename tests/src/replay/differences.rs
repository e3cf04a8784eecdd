//! Where recordings are not followed, as data: `tests/golden/controllers-differences.json`.
//!
//! `differs`: what newer versions do otherwise, and what is otherwise on purpose. An entry changes what is expected,
//! and must change something.
//! `notYet`: what is not right yet. The case must fail at that step as long as the entry is there.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::case::Case;
use super::pods::PodEvent;

/// The list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Differences {
    differs: Vec<Differs>,
    /// What is not right yet.
    pub not_yet: Vec<NotYet>,
}

/// A step at which a case fails.
#[derive(Clone, Debug, Deserialize)]
pub struct NotYet {
    /// The case.
    pub case: String,
    /// The step; `events` for the events at the end.
    pub step: String,
    /// What is wrong.
    pub why: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Differs {
    /// A case, or several: `endpoints-*`.
    cases: String,
    /// What is different, and why.
    #[serde(rename = "why")]
    _why: String,
    /// Only in this step.
    step: Option<String>,
    /// In what the paths that end so show. Each object of a list is changed.
    #[serde(default)]
    see: String,
    /// Only objects in which there is this value at this pointer.
    #[serde(default)]
    only: BTreeMap<String, Value>,
    /// Pointer to a field of an object → its value; null takes it away.
    #[serde(default)]
    set: BTreeMap<String, Value>,
    /// Texts that are others wherever they are found.
    #[serde(default)]
    texts: BTreeMap<String, String>,
    /// What becomes of pods.
    pod_events: Option<Vec<PodEvent>>,
    /// How many seconds the steps take at the least.
    not_before: Option<f64>,
    /// Events that are no longer recorded.
    #[serde(default)]
    without_events: Vec<[String; 5]>,
    /// Events that are recorded now.
    #[serde(default)]
    with_events: Vec<[String; 5]>,
}

impl Differences {
    /// Reads the list.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {file:?}"))?;
        Self::parse(&text).with_context(|| format!("read {file:?}"))
    }

    /// Reads the list from its text.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// Makes cases say what is expected.
    ///
    /// # Errors
    /// Names the entries that changed nothing.
    pub fn apply(&self, cases: &mut [Case]) -> Result<()> {
        let mut idle = Vec::new();
        for entry in &self.differs {
            let mut changes = 0;
            for case in cases.iter_mut().filter(|case| entry.is_about(&case.scenario)) {
                changes += entry.apply(case);
            }
            if changes == 0 {
                idle.push(format!("{entry:?}"));
            }
        }
        for not_yet in &self.not_yet {
            let case = cases.iter().find(|case| case.scenario == not_yet.case);
            let has = |case: &Case| case.steps.iter().any(|step| step.step == not_yet.step);
            if !case.is_some_and(|case| not_yet.step == "events" || has(case)) {
                idle.push(format!("{not_yet:?}"));
            }
        }
        ensure!(
            idle.is_empty(),
            "listed as different, but about nothing:\n{}",
            idle.join("\n")
        );
        Ok(())
    }
}

impl Differs {
    fn is_about(&self, case: &str) -> bool {
        match self.cases.strip_suffix('*') {
            Some(start) => case.starts_with(start),
            None => case == self.cases,
        }
    }

    /// Changes a case; returns how often.
    fn apply(&self, case: &mut Case) -> usize {
        let mut changes = 0;
        for step in &mut case.steps {
            if self.step.as_ref().is_some_and(|name| *name != step.step) {
                continue;
            }
            if let Some(seconds) = self.not_before
                && step.not_before > 0.0
            {
                changes += usize::from(step.not_before != seconds);
                step.not_before = seconds;
            }
            if let Some(events) = &self.pod_events {
                changes += usize::from(step.pod_events != *events);
                step.pod_events.clone_from(events);
            }
            for (path, state) in &mut step.state {
                changes += self.replace(state);
                if self.set.is_empty() || !path.ends_with(&self.see) {
                    continue;
                }
                let objects = match state {
                    Value::Array(objects) => objects.iter_mut().collect(),
                    object => vec![object],
                };
                for object in objects {
                    changes += usize::from(self.set(object));
                }
            }
        }
        let before = case.events.len();
        case.events.retain(|event| !self.without_events.contains(event));
        changes += before - case.events.len() + self.with_events.len();
        case.events.extend(self.with_events.iter().cloned());
        changes
    }

    fn set(&self, object: &mut Value) -> bool {
        let fits = |(pointer, value): (&String, &Value)| object.pointer(pointer) == Some(value);
        if !object.is_object() || !self.only.iter().all(fits) {
            return false;
        }
        let before = object.clone();
        for (pointer, value) in &self.set {
            let (parent, name) = pointer.rsplit_once('/').unwrap_or(("", pointer));
            let name = name.replace("~1", "/").replace("~0", "~");
            let Some(parent) = object.pointer_mut(parent) else {
                continue;
            };
            match (parent, value) {
                (Value::Object(fields), Value::Null) => drop(fields.remove(&name)),
                (Value::Object(fields), value) => drop(fields.insert(name, value.clone())),
                _ => {}
            }
        }
        *object != before
    }

    fn replace(&self, value: &mut Value) -> usize {
        match value {
            Value::String(text) => match self.texts.get(text) {
                Some(other) => {
                    text.clone_from(other);
                    1
                }
                None => 0,
            },
            Value::Array(items) => items.iter_mut().map(|item| self.replace(item)).sum(),
            Value::Object(fields) => fields.values_mut().map(|field| self.replace(field)).sum(),
            _ => 0,
        }
    }
}
