//! Following a pod's life along a recording.

use serde_json::{Value, json};

use super::differences::Rule;
use super::recording::Recording;
use super::shown::CONTAINERS;
use crate::replay::compare;

/// How far a pod has come.
#[derive(Clone, Debug)]
pub struct Life {
    expected: Vec<Expected>,
    rules: Vec<Rule>,
    /// Where in `expected` it is.
    at: usize,
    /// The last one there of those that are no different from it.
    reach: usize,
    /// What was shown, and where in the recording that was; for errors.
    seen: Vec<(usize, Value)>,
}

#[derive(Clone, Debug)]
struct Expected {
    /// Which status of the recording it is, or comes before.
    index: usize,
    snapshot: Value,
}

impl Life {
    /// A life yet to be lived.
    pub fn new(recording: &Recording, rules: Vec<Rule>) -> Self {
        let mut expected: Vec<Expected> = Vec::new();
        for (index, snapshot) in recording.statuses.iter().enumerate() {
            if rules.contains(&Rule::Running)
                && let Some(before) = index.checked_sub(1).map(|index| &recording.statuses[index])
            {
                let running = running(before, snapshot).into_iter();
                expected.extend(running.map(|snapshot| Expected { index, snapshot }));
            }
            let snapshot = snapshot.clone();
            expected.push(Expected { index, snapshot });
        }
        Self {
            expected,
            rules,
            at: 0,
            reach: 0,
            seen: Vec::new(),
        }
    }

    /// Takes in what is shown next.
    ///
    /// # Errors
    /// How it contradicts the recording.
    pub fn see(&mut self, snapshot: &Value) -> Result<(), String> {
        if self.seen.last().is_some_and(|(_, last)| last == snapshot) {
            return Ok(());
        }
        let rest = self.expected.iter().enumerate().skip(self.at);
        let mut nearest: Option<(usize, Vec<String>)> = None;
        for (at, expected) in rest {
            let differences = self.differences(at, snapshot);
            if differences.is_empty() {
                self.seen.push((expected.index, snapshot.clone()));
                self.arrive(at, snapshot);
                return Ok(());
            }
            if nearest
                .as_ref()
                .is_none_or(|(_, best)| differences.len() < best.len())
            {
                nearest = Some((expected.index, differences));
            }
        }
        let (index, differences) = nearest.unwrap_or_default();
        Err(format!(
            "a status that does not follow:\n  {}\nfrom recorded status {index} it differs by\n  {}",
            brief(snapshot),
            differences.join("\n  "),
        ))
    }

    fn arrive(&mut self, at: usize, snapshot: &Value) {
        self.at = at;
        let same = |next: &usize| self.differences(*next, snapshot).is_empty();
        let others = (at + 1..self.expected.len()).take_while(same).count();
        self.reach = at + others;
    }

    /// How many statuses of the recording have been shown or passed over.
    pub fn come(&self) -> usize {
        let come = self.expected[self.reach].index + 1;
        if self.seen.is_empty() { 0 } else { come }
    }

    /// Whether the recording's last status has been shown.
    pub fn is_complete(&self) -> bool {
        !self.seen.is_empty() && self.reach + 1 == self.expected.len()
    }

    /// What has been shown, and what was recorded; for errors.
    pub fn story(&self) -> String {
        let lines: Vec<_> = self
            .seen
            .iter()
            .map(|(index, snapshot)| format!("  {index}: {}", brief(snapshot)))
            .collect();
        format!("were\n{}\nof\n{}", lines.join("\n"), self.recorded())
    }

    fn recorded(&self) -> String {
        let line = |expected: &Expected| format!("  {}: {}", expected.index, brief(&expected.snapshot));
        self.expected.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// How what is shown differs from what is expected there.
    fn differences(&self, at: usize, snapshot: &Value) -> Vec<String> {
        let mut expected = self.expected[at].snapshot.clone();
        if self.rules.contains(&Rule::Address) && expected["status"]["podIP"].is_null() {
            for field in ["podIP", "podIPs"] {
                if let Some(value) = snapshot["status"].get(field) {
                    expected["status"][field] = value.clone();
                }
            }
        }
        if self.rules.contains(&Rule::LastState) {
            self.remember(at, &mut expected);
        }
        compare(&expected, snapshot)
    }

    /// Puts back how containers ended before, where that was forgotten.
    fn remember(&self, at: usize, expected: &mut Value) {
        for list in CONTAINERS {
            let containers = expected["status"].get_mut(list).and_then(Value::as_object_mut);
            for (name, container) in containers.into_iter().flatten() {
                let last = |earlier: &Expected| {
                    let last = earlier.snapshot["status"][list][name]["lastState"].clone();
                    (last != json!({}) && !last.is_null()).then_some(last)
                };
                if container["restartCount"] != 0
                    && container["lastState"] == json!({})
                    && let Some(last) = self.expected[..at].iter().rev().find_map(last)
                {
                    container["lastState"] = last;
                }
            }
        }
    }
}

/// What could be seen between two statuses if one looked all the time: each container that has ended in the second
/// ran before. The recording's node looked once a second.
fn running(before: &Value, after: &Value) -> Vec<Value> {
    let mut between = Vec::new();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for (name, container) in after["status"][list].as_object().into_iter().flatten() {
            let former = &before["status"][list][name];
            let ended = container["state"]["terminated"]["containerID"] == "<id>";
            let same_run =
                former["restartCount"] == container["restartCount"] && former["state"]["waiting"].is_null();
            if ended && !same_run {
                between.push(with_running(before, after, list, name));
            }
        }
    }
    between
}

fn with_running(before: &Value, after: &Value, list: &str, name: &str) -> Value {
    let mut snapshot = after.clone();
    let is_init = list == "initContainerStatuses";
    let status = &mut snapshot["status"];
    let container = &mut status[list][name];
    container["state"] = json!({"running": {}});
    container["started"] = json!(true);
    container["ready"] = json!(!is_init);
    if is_init {
        status["phase"] = before["status"]["phase"].clone();
        status["conditions"] = before["status"]["conditions"].clone();
    } else {
        status["phase"] = json!("Running");
        for condition in ["Initialized", "Ready", "ContainersReady"] {
            status["conditions"][condition] = json!({"status": "True"});
        }
    }
    snapshot
}

/// A status in a line.
fn brief(snapshot: &Value) -> String {
    let status = &snapshot["status"];
    let mut words = vec![
        text(&snapshot["event"]),
        text(&status["phase"]),
        text(&status["reason"]),
    ];
    if snapshot["deleting"] == true {
        words.push("deleting".to_owned());
    }
    for (name, condition) in status["conditions"].as_object().into_iter().flatten() {
        words.push(format!(
            "{name}={}:{}",
            text(&condition["status"]),
            text(&condition["reason"])
        ));
    }
    for list in CONTAINERS {
        for (name, container) in status[list].as_object().into_iter().flatten() {
            let (state, last) = (state(&container["state"]), state(&container["lastState"]));
            let (restarts, ready) = (&container["restartCount"], &container["ready"]);
            words.push(format!(
                "| {name}: {state} after {last} restarts={restarts} ready={ready}"
            ));
        }
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

fn state(state: &Value) -> String {
    let Some((kind, fields)) = state.as_object().and_then(|state| state.iter().next()) else {
        return "-".to_owned();
    };
    let (reason, code) = (text(&fields["reason"]), text(&fields["exitCode"]));
    let said = if kind == "waiting" {
        text(&fields["message"])
    } else {
        String::new()
    };
    format!("{kind}({reason}{code}{said:.20})")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
