//! The values of a run, and the placeholders that stand for them in a recording.

use serde_json::Value;

/// What placeholders stand for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `{ns}`.
    pub namespace: String,
    /// `{node}`.
    pub node: String,
    /// `{image2}`.
    pub second_image: String,
    /// Where volumes are instead of in `/tmp`.
    pub dir: String,
    /// What `{r1}` and so on stand for.
    pub revisions: Vec<String>,
}

impl Names {
    /// The placeholder of a revision: `r1` is the first that was seen.
    pub fn revision(&mut self, name: &str) -> String {
        let known = self.revisions.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            self.revisions.push(name.to_owned());
            self.revisions.len() - 1
        });
        format!("r{}", index + 1)
    }

    /// A text of a recording with the values of this run. `{uid:…}` is left to who can look it up.
    pub fn fill(&self, text: &str) -> String {
        text.replace("/tmp/{ns}", &format!("{}/{{ns}}", self.dir))
            .replace("{ns}", &self.namespace)
            .replace("{node}", &self.node)
            .replace("{image2}", &self.second_image)
    }

    /// What this run shows, with placeholders.
    pub fn scrub(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.scrub_text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.scrub(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.scrub_text(&name), self.scrub(value)))
                .collect(),
            other => other,
        }
    }

    /// A text of this run, with placeholders.
    pub fn scrub_text(&self, text: &str) -> String {
        if !self.node.is_empty() && text == self.node {
            return "<node>".to_owned();
        }
        if let Some(index) = self.revisions.iter().position(|revision| revision == text) {
            return format!("{{r{}}}", index + 1);
        }
        let mut text = text.to_owned();
        for (value, placeholder) in [(&self.namespace, "{ns}"), (&self.second_image, "{image2}")] {
            if !value.is_empty() {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        text
    }
}
