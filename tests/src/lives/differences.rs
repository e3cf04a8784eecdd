//! Where recordings are not followed, as data: `tests/golden/pods-differences.json`. Each entry is a rule, and says
//! why it holds. One that is about nothing is an error.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::recording::Recording;

/// The list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Differences {
    newer: Vec<Newer>,
    texts: Vec<Text>,
    ends: Vec<End>,
    may: Vec<May>,
    may_tell: Vec<MayTell>,
}

/// What may be shown otherwise than it was recorded.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Rule {
    /// A pod has its address, though it was recorded without one.
    Address,
    /// A container that ended is seen running first.
    Running,
    /// How a container ended before is still known, though it was recorded as forgotten.
    LastState,
}

/// Fields that the recorded version did not have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Newer {
    /// Pointers into a status; `*` is any name.
    fields: Vec<String>,
    #[serde(rename = "why")]
    _why: String,
}

/// A part of a text that is another now.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// All cases, unless one is named.
    case: Option<String>,
    /// What was recorded. `*` at the end is all that follows.
    recorded: String,
    /// What it is now.
    now: String,
    #[serde(rename = "why")]
    _why: String,
}

/// A recording that was left in the middle of things.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    case: String,
    /// Ends with the first status that has this text; with the last unless there is one.
    with: Option<String>,
    #[serde(rename = "why")]
    _why: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct May {
    /// All cases, unless one is named.
    case: Option<String>,
    rule: Rule,
    #[serde(rename = "why")]
    _why: String,
}

/// An event that may come, or may not.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MayTell {
    case: String,
    /// How its message begins.
    message: String,
    #[serde(rename = "why")]
    _why: String,
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

    /// Makes recordings say what is expected now.
    ///
    /// # Errors
    /// Names the entries that are about nothing.
    pub fn apply(&self, recordings: &mut [Recording]) -> Result<()> {
        let mut idle = Vec::new();
        for entry in &self.texts {
            let mut changes = 0;
            for recording in recordings.iter_mut() {
                if entry.case.as_ref().is_none_or(|case| *case == recording.scenario) {
                    changes += entry.apply(recording);
                }
            }
            if changes == 0 {
                idle.push(format!("{entry:?}"));
            }
        }
        for entry in &self.ends {
            let found = recordings
                .iter_mut()
                .find(|recording| recording.scenario == entry.case);
            if !found.is_some_and(|recording| entry.apply(recording)) {
                idle.push(format!("{entry:?}"));
            }
        }
        let named = self.may.iter().filter_map(|entry| entry.case.as_ref());
        for case in named.chain(self.may_tell.iter().map(|entry| &entry.case)) {
            if !recordings.iter().any(|recording| recording.scenario == *case) {
                idle.push(format!("no case {case:?}"));
            }
        }
        ensure!(
            idle.is_empty(),
            "listed as different, but about nothing:\n{}",
            idle.join("\n")
        );
        Ok(())
    }

    /// What may be otherwise in a case.
    pub fn rules(&self, case: &str) -> Vec<Rule> {
        let about = |entry: &&May| entry.case.as_ref().is_none_or(|named| named == case);
        self.may.iter().filter(about).map(|entry| entry.rule).collect()
    }

    /// How messages begin that may be told in a case.
    pub fn may_tell(&self, case: &str) -> Vec<String> {
        let entries = self.may_tell.iter().filter(|entry| entry.case == case);
        entries.map(|entry| entry.message.clone()).collect()
    }

    /// Takes from what is shown what is newer than the recordings.
    pub fn without_newer(&self, snapshot: &mut Value) {
        for pointer in self.newer.iter().flat_map(|entry| &entry.fields) {
            let path: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
            remove(&mut snapshot["status"], &path);
        }
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    match (value, path) {
        (Value::Object(fields), [name]) => drop(fields.remove(*name)),
        (Value::Object(fields), ["*", rest @ ..]) => {
            fields.values_mut().for_each(|field| remove(field, rest))
        }
        (Value::Object(fields), [name, rest @ ..]) => {
            if let Some(field) = fields.get_mut(*name) {
                remove(field, rest);
            }
        }
        _ => {}
    }
}

impl Text {
    /// Changes a recording; returns how often.
    fn apply(&self, recording: &mut Recording) -> usize {
        let in_pod = self.replace(&mut recording.pod);
        let in_statuses = recording.statuses.iter_mut().map(|status| self.replace(status));
        let changes = in_pod + in_statuses.sum::<usize>();
        let messages = recording.events.iter_mut().map(|event| &mut event.message);
        changes
            + messages
                .map(|message| usize::from(self.replace_in(message)))
                .sum::<usize>()
    }

    fn replace(&self, value: &mut Value) -> usize {
        match value {
            Value::String(text) => usize::from(self.replace_in(text)),
            Value::Array(items) => items.iter_mut().map(|item| self.replace(item)).sum(),
            Value::Object(fields) => fields.values_mut().map(|field| self.replace(field)).sum(),
            _ => 0,
        }
    }

    fn replace_in(&self, text: &mut String) -> bool {
        let other = match self.recorded.strip_suffix('*') {
            Some(start) => match text.split_once(start) {
                Some((before, _)) => format!("{before}{}", self.now),
                None => return false,
            },
            None => text.replace(&self.recorded, &self.now),
        };
        let changes = other != *text;
        *text = other;
        changes
    }
}

impl End {
    /// Cuts a recording; returns whether there is such an end.
    fn apply(&self, recording: &mut Recording) -> bool {
        recording.goes_on = true;
        let Some(text) = &self.with else { return true };
        let has = |status: &Value| status.to_string().contains(text.as_str());
        let Some(last) = recording.statuses.iter().position(has) else {
            return false;
        };
        recording.statuses.truncate(last + 1);
        true
    }
}
