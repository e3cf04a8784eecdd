//! The values of a run, and the placeholders that stand for them in a recording.

use serde_json::Value;

use super::pods::Naming;

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
    /// What `{p1}` and so on stand for.
    pub pods: Vec<String>,
    /// Whether it makes a difference which pod something happens to.
    pub naming: Naming,
    /// Names of pods that are made up, and what they are called in events.
    pub made_up: Vec<(String, String)>,
}

impl Names {
    /// The placeholder of a revision: `r1` is the first that was seen.
    pub fn revision(&mut self, name: &str) -> String {
        format!("r{}", number(&mut self.revisions, name))
    }

    /// The placeholder of a pod: `p1` is the first that was seen.
    pub fn pod(&mut self, name: &str, is_made_up: bool) -> String {
        let called = format!("p{}", number(&mut self.pods, name));
        if !is_made_up {
            return name.to_owned();
        }
        let placeholder = match self.naming {
            Naming::Interchangeable => "<pod>".to_owned(),
            Naming::Named => format!("{{{called}}}"),
        };
        if !self.made_up.iter().any(|(known, _)| known == name) {
            self.made_up.push((name.to_owned(), placeholder));
        }
        called
    }

    /// A text of a recording with the values of this run. `{uid:…}` is left to who can look it up.
    pub fn fill(&self, text: &str) -> String {
        let text = text
            .replace("/tmp/{ns}", &format!("{}/{{ns}}", self.dir))
            .replace("{ns}", &self.namespace)
            .replace("{node}", &self.node)
            .replace("{image2}", &self.second_image);
        self.pods.iter().enumerate().fold(text, |text, (index, pod)| {
            text.replace(&format!("{{p{}}}", index + 1), pod)
        })
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
        for (pod, placeholder) in &self.made_up {
            text = text.replace(pod.as_str(), placeholder);
        }
        // The names of replica sets end in a hash of their template.
        for (index, revision) in self.revisions.iter().enumerate() {
            text = text.replace(&format!("-{revision}"), &format!("-{{r{}}}", index + 1));
        }
        for (value, placeholder) in [(&self.namespace, "{ns}"), (&self.second_image, "{image2}")] {
            if !value.is_empty() {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        text
    }
}

/// The place of a name among those seen, from 1; it is noted if it is new.
fn number(known: &mut Vec<String>, name: &str) -> usize {
    let index = known.iter().position(|known| known == name);
    1 + index.unwrap_or_else(|| {
        known.push(name.to_owned());
        known.len() - 1
    })
}
