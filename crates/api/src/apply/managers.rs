//! Those who have set fields of an object: `metadata.managedFields`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::field_set::FieldSet;
use super::shown;
use crate::meta;

/// How many of those who update are told apart; fields of the oldest beyond them are put together.
const MOST_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Who has set the fields of an object of which that was not noted.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// Who writes an object, and when.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The field manager that the request names.
    pub manager: String,
    /// The API version of the request, e.g. `apps/v1`.
    pub api_version: String,
    /// e.g. `status`; empty for the object itself.
    pub subresource: String,
    /// RFC 3339.
    pub now: String,
}

#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: FieldSet,
}

/// All of an object.
#[derive(Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Entry {
    fn read(value: &Value) -> Option<Entry> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let operation = text("operation");
        let readable = [APPLY, UPDATE].contains(&operation.as_str()) && value["fieldsType"] == "FieldsV1";
        readable.then(|| Entry {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: value["time"].as_str().map(str::to_owned),
            fields: FieldSet::parse(&value["fieldsV1"]),
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if let Some(time) = &self.time {
            entry["time"] = time.as_str().into();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    /// What tells it from others.
    fn who(&self) -> [String; 4] {
        [
            &self.manager,
            &self.operation,
            &self.api_version,
            &self.subresource,
        ]
        .map(String::clone)
    }

    fn is(&self, writer: &Writer, operation: &str) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            // One who applies does so in one version.
            && (operation == APPLY || self.api_version == writer.api_version)
    }
}

impl Managers {
    /// Those that an object names.
    pub(super) fn of(object: &Value) -> Managers {
        let entries = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten();
        Managers(entries.filter_map(Entry::read).collect())
    }

    /// Whether each entry of a list of them can be read.
    pub(super) fn are_readable(entries: &[Value]) -> bool {
        entries.iter().all(|entry| Entry::read(entry).is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes that all fields were set before anybody applied.
    pub(super) fn before_first_apply(&mut self, fields: FieldSet, writer: &Writer) {
        self.0.push(Entry {
            manager: BEFORE_FIRST_APPLY.to_owned(),
            operation: UPDATE.to_owned(),
            api_version: writer.api_version.clone(),
            subresource: String::new(),
            time: Some(writer.now.clone()),
            fields,
        });
    }

    fn entry(&mut self, writer: &Writer, operation: &str) -> &mut Entry {
        let at = self.0.iter().position(|entry| entry.is(writer, operation));
        let at = at.unwrap_or_else(|| {
            self.0.push(Entry {
                manager: writer.manager.clone(),
                operation: operation.to_owned(),
                api_version: writer.api_version.clone(),
                subresource: writer.subresource.clone(),
                time: None,
                fields: FieldSet::default(),
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Notes what a writer applies, and gives what they applied before.
    pub(super) fn set_applied(&mut self, writer: &Writer, fields: FieldSet) -> FieldSet {
        let entry = self.entry(writer, APPLY);
        entry.api_version.clone_from(&writer.api_version);
        std::mem::replace(&mut entry.fields, fields)
    }

    /// Everything that anybody has set.
    pub(super) fn all(&self) -> FieldSet {
        let sets = self.0.iter().map(|entry| entry.fields.clone());
        sets.fold(FieldSet::default(), FieldSet::union)
    }

    /// Who else has set fields that an application changes, and which.
    pub(super) fn conflicts(&self, writer: &Writer, changed: &FieldSet) -> Vec<(String, Vec<String>)> {
        let others = self.0.iter().filter(|entry| !entry.is(writer, APPLY));
        others
            .filter_map(|entry| {
                let fields = entry.fields.intersection(changed).paths();
                let version = (entry.operation == UPDATE).then_some(entry.api_version.as_str());
                let who = shown(&entry.manager, version, &entry.subresource);
                (!fields.is_empty()).then_some((who, fields))
            })
            .collect()
    }

    /// Takes fields from everybody else that an application changes or takes away.
    pub(super) fn take_applied(&mut self, writer: &Writer, changed: &FieldSet, removed: &FieldSet) {
        for entry in self.0.iter_mut().filter(|entry| !entry.is(writer, APPLY)) {
            entry.fields = entry.fields.difference(changed).difference(removed);
        }
    }

    /// Notes what a writer has changed by other means; of that everybody else loses what they had.
    pub(super) fn take_updated(
        &mut self,
        writer: &Writer,
        changed: &FieldSet,
        removed: &FieldSet,
        own: FieldSet,
    ) {
        for entry in &mut self.0 {
            entry.fields = entry.fields.difference(removed);
            if !entry.is(writer, UPDATE) {
                entry.fields = entry.fields.difference(changed);
            }
        }
        if !own.is_empty() {
            let entry = self.entry(writer, UPDATE);
            entry.fields = std::mem::take(&mut entry.fields).union(own);
        }
    }

    /// Writes them into an object. Whose fields are as they were keep their time.
    pub(super) fn write(mut self, old: &Value, new: &mut Value, writer: &Writer) {
        self.0.retain(|entry| !entry.fields.is_empty());
        let before = Managers::of(old);
        // Of several that are the same the first counts.
        let before: BTreeMap<_, &Entry> = before.0.iter().rev().map(|entry| (entry.who(), entry)).collect();
        for entry in &mut self.0 {
            match before.get(&entry.who()) {
                Some(known) if known.fields == entry.fields => entry.time.clone_from(&known.time),
                _ => entry.time = Some(writer.now.clone()),
            }
        }
        self.limit();
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| {
                (
                    entry.operation.clone(),
                    entry.time.clone().unwrap_or_default(),
                    entry.manager.clone(),
                    entry.api_version.clone(),
                    entry.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        let entries: Vec<Value> = self.0.iter().map(Entry::to_json).collect();
        if entries.is_empty() {
            meta::remove(new, "managedFields");
        } else {
            meta::set(new, "managedFields", entries);
        }
    }

    fn limit(&mut self) {
        let mut updaters: Vec<usize> = (0..self.0.len())
            .filter(|at| self.0[*at].operation == UPDATE && self.0[*at].subresource.is_empty())
            .collect();
        if updaters.len() <= MOST_UPDATERS {
            return;
        }
        updaters.sort_by_key(|at| self.0[*at].time.clone());
        let oldest = &updaters[..=updaters.len() - MOST_UPDATERS];
        let mut together = Entry {
            manager: ANCIENT.to_owned(),
            ..self.0[oldest[0]].clone()
        };
        for at in &oldest[1..] {
            together.fields = together.fields.union(self.0[*at].fields.clone());
            together.time.clone_from(&self.0[*at].time);
        }
        let oldest: BTreeSet<usize> = oldest.iter().copied().collect();
        let mut at = 0;
        self.0.retain(|_| {
            at += 1;
            !oldest.contains(&(at - 1))
        });
        self.0.push(together);
    }
}
