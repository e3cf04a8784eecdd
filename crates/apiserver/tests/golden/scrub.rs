//! Takes out of answers what is never the same twice, in the recorded one and in ours alike.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What not to take out, and what was asked for and so is kept.
pub(crate) struct Scrub<'s> {
    pub(crate) keep: &'s [String],
    /// The body of the request, as text.
    pub(crate) request: &'s str,
    /// In answers to a POST the status is the first one, which is always the same.
    pub(crate) is_post: bool,
}

/// A pattern and what stands for what it matches, in every text.
static TEXTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "<uid>",
        ),
        (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z", "<time>"),
        (r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]+ \+0000 UTC", "<time>"),
        (r"(?s)-----BEGIN .*-----END [A-Z ]+-----\n?", "<pem>"),
        (r"https://127\.0\.0\.1:[0-9]+", "https://127.0.0.1:<port>"),
        (r"10\.[0-9]+\.[0-9]+\.[0-9]+", "<cluster-ip>"),
        (r"kube-api-access-[a-z0-9]{5}(?-u:\b)", "kube-api-access-<id>"),
        (r"\(0xc[0-9a-f]+\)", "(<pointer>)"),
        (
            r#"resourceVersion\\":\\"[0-9]+"#,
            r#"resourceVersion\":\"<version>"#,
        ),
        (r#"resourceVersion":"[0-9]+"#, r#"resourceVersion":"<version>"#),
        (r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", "<token>"),
    ]
    .into_iter()
    .map(|(pattern, stands)| {
        (
            Regex::new(pattern).expect("the patterns above are well-formed"),
            stands,
        )
    })
    .collect()
});

static AGE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^([0-9]+[smhd])+$").expect("a well-formed pattern"));

impl Scrub<'_> {
    /// Scrubs a body, and takes away what is as if it were not there.
    pub(crate) fn apply(&self, body: &mut Value) {
        self.value(body);
        prune(body);
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = text_of(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(_) => self.object(value),
            _ => {}
        }
    }

    fn object(&self, value: &mut Value) {
        let keeps = |what: &str| self.keep.iter().any(|kept| kept == what);
        if value["status"].is_object() && !self.is_post && !keeps("status") {
            value["status"] = Value::Null;
        }
        if let Some(cells) = value["cells"].as_array_mut() {
            let ages = cells
                .iter_mut()
                .filter(|cell| cell.as_str().is_some_and(|cell| AGE.is_match(cell)));
            ages.for_each(|cell| *cell = "<age>".into());
        }
        if let Some(columns) = value["columnDefinitions"].as_array_mut() {
            // Ours are in our own words.
            columns
                .iter_mut()
                .for_each(|column| column["description"] = Value::Null);
        }
        if value["fieldsType"].is_string() {
            value["time"] = Value::Null;
        }
        if let Some(metadata) = value["metadata"].as_object_mut() {
            for (field, keep) in [
                ("uid", ""),
                ("resourceVersion", "resourceVersion"),
                ("creationTimestamp", ""),
                ("managedFields", "managedFields"),
            ] {
                if keep.is_empty() || !keeps(keep) {
                    metadata.remove(field);
                }
            }
            if metadata.contains_key("generateName") && metadata.contains_key("name") {
                metadata.insert("name".to_owned(), "<generated>".into());
            }
            if metadata.contains_key("continue") {
                metadata.insert("continue".to_owned(), "<continue>".into());
            }
        }
        let Value::Object(fields) = value else { return };
        for (name, value) in fields.iter_mut() {
            match (name.as_str(), &*value) {
                // Addresses and ports that were asked for stay; the rest was chosen by the server.
                ("nodePort" | "healthCheckNodePort", Value::Number(port))
                    if !self.request.contains(&port.to_string()) =>
                {
                    *value = "<node-port>".into();
                }
                ("token", Value::String(token)) if token.starts_with("eyJ") => *value = "<token>".into(),
                ("caBundle" | "certificate" | "status/certificate", Value::String(_)) => {
                    *value = "<pem>".into()
                }
                _ => self.value(value),
            }
        }
    }
}

/// Scrubs a text.
pub(crate) fn text_of(text: &str) -> String {
    TEXTS.iter().fold(text.to_owned(), |text, (pattern, stands)| {
        pattern.replace_all(&text, regex::NoExpand(stands)).into_owned()
    })
}

/// Absent, null, `{}` and `[]` are one.
fn prune(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| !is_nothing(value));
        }
        _ => {}
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}
