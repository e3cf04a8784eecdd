//! What events tell about a pod.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::shown::Run;

/// An event.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Told {
    /// Who tells it.
    pub source: String,
    /// The part of the pod that it is about.
    pub field_path: Option<String>,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A word for it.
    pub reason: String,
    /// In many words.
    pub message: String,
    /// Whether it was told again. How often depends on when one looks.
    #[serde(default, rename = "repeated")]
    _repeated: bool,
}

impl Told {
    /// What an Event object tells, with placeholders. Nothing, unless it has been told at least once.
    pub fn read(event: &Value, run: &Run) -> Option<Self> {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let told = event["count"].as_i64().unwrap_or(0) >= 1 || !event["eventTime"].is_null();
        told.then(|| Self {
            source: text("/source/component")
                .or_else(|| text("/reportingComponent"))
                .unwrap_or_default()
                .to_owned(),
            field_path: text("/involvedObject/fieldPath").map(str::to_owned),
            kind: text("/type").unwrap_or_default().to_owned(),
            reason: text("/reason").unwrap_or_default().to_owned(),
            message: run.scrub_text(text("/message").unwrap_or_default()),
            _repeated: false,
        })
    }

    fn line(&self) -> String {
        let place = self.field_path.as_deref().unwrap_or("-");
        format!(
            "{} {} {place} {}: {:?}",
            self.source, self.kind, self.reason, self.message
        )
    }

    /// The same, whether or not it was told again.
    fn once(&self) -> Self {
        Self {
            _repeated: false,
            ..self.clone()
        }
    }
}

/// How what was told differs from what should be: what is missing, and what is wrong. Those of one source come in the
/// order in which they happened; those whose message begins with one of `may` may come, and may miss.
pub fn compare_told(expected: &[Told], told: &[Told], may: &[String]) -> (Vec<String>, Vec<String>) {
    let wanted: Vec<Told> = firsts(expected);
    let found: Vec<Told> = firsts(told);
    let is_optional = |one: &&Told| may.iter().any(|start| one.message.starts_with(start.as_str()));
    let missing = wanted
        .iter()
        .filter(|one| !found.contains(one) && !is_optional(one));
    let missing = missing.map(|one| format!("no event: {}", one.line())).collect();
    let surplus = found
        .iter()
        .filter(|one| !wanted.contains(one) && !is_optional(one));
    let mut wrong: Vec<_> = surplus
        .map(|one| format!("an event too many: {}", one.line()))
        .collect();
    let sources: BTreeSet<_> = found.iter().map(|one| &one.source).collect();
    for source in sources {
        let of = |all: &[Told], others: &[Told]| -> Vec<String> {
            let both = all
                .iter()
                .filter(|one| one.source == *source && others.contains(one));
            both.map(Told::line).collect()
        };
        let (wanted, found) = (of(&wanted, &found), of(&found, &wanted));
        if wanted != found {
            wrong.push(format!(
                "events in another order:\n  {}\nexpected\n  {}",
                found.join("\n  "),
                wanted.join("\n  ")
            ));
        }
    }
    (missing, wrong)
}

/// Each once, in the order in which they came first.
fn firsts(all: &[Told]) -> Vec<Told> {
    let mut firsts = Vec::new();
    for one in all {
        let one = one.once();
        if !firsts.contains(&one) {
            firsts.push(one);
        }
    }
    firsts
}
