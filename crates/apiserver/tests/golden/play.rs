//! Plays a case: the only place that asks the server and compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::case::{Answer, Case, Only, Request, Step};
use crate::controllers;
use crate::differences::Differences;
use crate::fixture::{self, Answered, Fixture};
use crate::hooks::Hooks;
use crate::place;
use crate::scrub::{self, Scrub};
use crate::sent::Sent;

/// Plays a case on a server of its own. The error shows every answer that is not as recorded.
pub(crate) fn check(name: &str, case: &Case, differences: &Differences) -> std::result::Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("start a runtime: {error}"))?;
    runtime.block_on(async {
        let fixture = Fixture::start(case.namespace)
            .await
            .map_err(|error| format!("start a server: {error}"))?;
        let hooks = fixture.webhooks(case.webhooks.clone());
        let hooks = hooks
            .await
            .map_err(|error| format!("start its webhooks: {error}"))?;
        let played = play(name, case, differences, &fixture, &hooks);
        let result = if case.requests.is_empty() {
            played.await
        } else {
            // The server itself signs.
            tokio::select! {
                result = played => result,
                () = fixture.run() => Err("the server has ended".to_owned()),
            }
        };
        fixture.close().await;
        hooks
            .stop()
            .await
            .map_err(|error| format!("stop its webhooks: {error}"))?;
        result
    })
}

async fn play(
    name: &str,
    case: &Case,
    differences: &Differences,
    fixture: &Fixture,
    hooks: &Hooks,
) -> std::result::Result<(), String> {
    let mut names = hooks.names.clone();
    names.insert("ns".to_owned(), case.namespace.to_owned());
    for (name, subject) in &case.requests {
        let request = fixture::request(subject).map_err(|error| format!("make a request: {error}"))?;
        names.insert(name.clone(), request);
    }
    let mut trouble = String::new();
    for (at, step) in case.steps.iter().enumerate() {
        let request = step.request.filled(&names);
        if !case.requests.is_empty() {
            tokio::time::sleep(Duration::from_secs_f64(step.after_seconds)).await;
        }
        let shown = format!("step {at}: {} {}", request.method, request.path);
        let lines = step.watch.as_ref().map(|watch| watch.events);
        let answered = if request.method == "WEBHOOK" {
            Answered::of(&json!({"reviews": hooks.asked(&request.path)}))
        } else {
            let answered = fixture.send(&request, lines).await;
            answered.map_err(|error| format!("{trouble}{shown}: {error}"))?
        };
        let found = step.found(&answered, &mut names);
        let recorded = step.response.clone().map(|mut recorded| {
            differences.apply(name, at, &mut recorded);
            step.recorded(recorded, &names)
        });
        let text = request.body.as_ref().map(Sent::text).unwrap_or_default();
        let different = match recorded {
            None if (200..300).contains(&answered.code) => None,
            None => Some(format!("{}: {}", answered.code, answered.body)),
            Some(recorded) => step.compare(recorded, found, &text),
        };
        if let Some(different) = different {
            // Writing to a String cannot fail.
            let _ = writeln!(trouble, "{shown}\n{different}");
        }
        if let Some(wait) = &step.wait_for {
            controllers::act(fixture, wait, &filled(&wait.path, &names))
                .await
                .map_err(|error| format!("{shown}: {error}"))?;
        }
    }
    if trouble.is_empty() { Ok(()) } else { Err(trouble) }
}

impl Request {
    /// With the values that names in braces stand for.
    fn filled(&self, names: &BTreeMap<String, String>) -> Request {
        Request {
            method: self.method.clone(),
            path: filled(&self.path, names),
            content_type: self.content_type.clone(),
            body: self
                .body
                .clone()
                .map(|body| body.map_texts(&|text| filled(text, names))),
            headers: match filled_value(Value::Object(self.headers.clone()), names) {
                Value::Object(headers) => headers,
                _ => Map::new(),
            },
        }
    }
}

impl Step {
    /// The server's answer in the form of a recorded one. What the step saves is taken from it.
    fn found(&self, answered: &Answered, names: &mut BTreeMap<String, String>) -> Answer {
        let body = match self.watch {
            Some(_) => {
                let events: Vec<Value> = answered
                    .body
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
                    .collect();
                json!({"events": events})
            }
            None if answered.body.is_empty() => Value::Null,
            // What follows was not recorded.
            None if answered.body.starts_with("k8s\0") => json!({"raw": "k8s\\0…"}),
            None => serde_json::from_str(&answered.body).unwrap_or_else(|_| json!({"raw": answered.body})),
        };
        for (name, path) in &self.save {
            let value = match place::get(&body, path) {
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
                None => String::new(),
            };
            names.insert(name.clone(), value);
        }
        let mut headers = BTreeMap::new();
        for name in self.keep_headers.iter().map(String::as_str).chain(["Warning"]) {
            let values: Vec<String> = answered
                .headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            if !values.is_empty() {
                headers.insert(name.to_owned(), values);
            }
        }
        Answer {
            code: answered.code,
            body: self.reduced(body),
            headers,
        }
    }

    /// The parts of a body that are compared.
    fn reduced(&self, mut body: Value) -> Value {
        if let Some(pick) = &self.pick {
            let parts = pick
                .iter()
                .map(|path| (path.clone(), place::get(&body, path).cloned().unwrap_or_default()));
            body = Value::Object(parts.collect());
        }
        if let Some(path) = &self.keys {
            let keys: Vec<String> = match place::get(&body, path) {
                Some(Value::Object(fields)) => fields.keys().cloned().collect(),
                _ => Vec::new(),
            };
            body = json!({"keys": keys});
        }
        body
    }

    fn recorded(&self, recorded: Answer, names: &BTreeMap<String, String>) -> Answer {
        let headers = recorded.headers.into_iter();
        let mut body = filled_value(recorded.body, names);
        // What webhooks were asked is recorded whole.
        if self.request.method == "WEBHOOK" {
            body = self.reduced(body);
        }
        Answer {
            code: recorded.code,
            body,
            headers: headers
                .map(|(name, values)| (name, values.iter().map(|value| filled(value, names)).collect()))
                .collect(),
        }
    }

    /// Shows what differs.
    fn compare(&self, mut recorded: Answer, mut found: Answer, request: &str) -> Option<String> {
        let is_post = self.request.method == "POST";
        let scrub = Scrub {
            keep: &self.keep,
            request,
            is_post,
        };
        for answer in [&mut recorded, &mut found] {
            for path in &self.drop {
                place::set(&mut answer.body, path, None);
            }
            if let Some(only) = &self.only {
                only.apply(&mut answer.body);
            }
            for path in &self.sort {
                if let Some(Value::Array(mut items)) = place::get(&answer.body, path).cloned() {
                    items.sort_by_key(Value::to_string);
                    place::set(&mut answer.body, path, Some(items.into()));
                }
            }
            scrub.apply(&mut answer.body);
            for value in answer.headers.values_mut().flatten() {
                *value = scrub::text_of(value);
            }
            answer.headers.retain(|_, values| !values.is_empty());
        }
        let mut different = Vec::new();
        compare("code", &recorded.code.into(), &found.code.into(), &mut different);
        compare(
            "headers",
            &json!(recorded.headers),
            &json!(found.headers),
            &mut different,
        );
        compare("body", &recorded.body, &found.body, &mut different);
        (!different.is_empty()).then(|| different.join("\n"))
    }
}

impl Only {
    fn apply(&self, body: &mut Value) {
        if let Some(items) = body[self.list].as_array_mut() {
            items.retain(|item| (self.served)(item["name"].as_str().unwrap_or_default()));
            items.sort_by_key(|item| item["name"].to_string());
        }
    }
}

fn compare(path: &str, recorded: &Value, found: &Value, different: &mut Vec<String>) {
    match (recorded, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let at = format!("{path}/{}", key.replace('/', "~1"));
                compare(
                    &at,
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    different,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}/{at}"), a, b, different);
            }
        }
        (a, b) if a == b => {}
        (a, b) => different.push(format!("  {path}\n    recorded {a}\n    found    {b}")),
    }
}

fn filled(text: &str, names: &BTreeMap<String, String>) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

fn filled_value(value: Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => filled(&text, names).into(),
        Value::Array(items) => items.into_iter().map(|item| filled_value(item, names)).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (filled(&key, names), filled_value(value, names)))
            .collect(),
        other => other,
    }
}
