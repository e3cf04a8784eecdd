//! What is expected otherwise than recorded: read from `differences.json`, told in words in
//! `differences.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::case::Answer;
use crate::place;

/// The name of the page, and of the data that it is made from.
const PAGE: &str = "differences.md";
const DATA: &str = "differences.json";

const HEAD: &str = "# Where the recordings are not followed\n
The cases were recorded from Kubernetes 1.28. Where a newer version answers otherwise by its documentation,
the newer one is followed. This page is made from `differences.json`, which the replay reads: edit that, run
the replay, and it says what to write here.\n";

/// All that is listed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Differences {
    /// A newer Kubernetes answers otherwise.
    newer: Vec<Otherwise>,
    /// This server answers otherwise on purpose, or for want of a feature that it does not have.
    on_purpose: Vec<Otherwise>,
    /// Wrong in this server.
    not_yet: Vec<NotYet>,
}

/// Parts of an answer that are otherwise.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Otherwise {
    /// The case, by area and file.
    case: String,
    /// The step, from 0.
    #[serde(default)]
    step: usize,
    /// Path (`code`, `body`, `headers/…` or `body/…`) → what is expected there; null: nothing.
    changes: BTreeMap<String, Value>,
    /// Since which version, and why.
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NotYet {
    case: String,
    what: String,
}

impl Differences {
    /// Reads them from the directory of the cases.
    pub(crate) fn read(root: &Path) -> Result<Differences, String> {
        let text = fs::read_to_string(root.join(DATA)).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// What is wrong with this server's answer to a case, if that is known.
    pub(crate) fn not_yet(&self, case: &str) -> Option<&str> {
        self.not_yet
            .iter()
            .find(|entry| entry.case == case)
            .map(|entry| entry.what.as_str())
    }

    /// Puts into a recorded answer what is expected of this server.
    pub(crate) fn apply(&self, case: &str, step: usize, answer: &mut Answer) {
        for entry in self
            .otherwise()
            .filter(|entry| entry.case == case && entry.step == step)
        {
            for (path, is) in &entry.changes {
                apply(path, is, answer);
            }
        }
    }

    fn otherwise(&self) -> impl Iterator<Item = &Otherwise> {
        self.newer.iter().chain(&self.on_purpose)
    }

    /// Checks that every entry names a case.
    pub(crate) fn check_names(&self, names: &[String]) -> Result<(), String> {
        let named = self.otherwise().map(|entry| &entry.case);
        let stray: Vec<_> = named
            .chain(self.not_yet.iter().map(|entry| &entry.case))
            .filter(|case| !names.contains(case))
            .collect();
        if stray.is_empty() {
            Ok(())
        } else {
            Err(format!("no such cases: {stray:?}"))
        }
    }

    /// Checks that the page says what the data holds.
    pub(crate) fn check_page(&self, root: &Path) -> Result<(), String> {
        let page = self.page();
        let current = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
        if page == current {
            Ok(())
        } else {
            Err(format!("{PAGE} should read:\n{page}"))
        }
    }

    fn page(&self) -> String {
        let mut page = HEAD.to_owned();
        section(&mut page, "Newer behaviour", &self.newer);
        section(&mut page, "On purpose", &self.on_purpose);
        // Writing to a String cannot fail.
        let _ = writeln!(page, "\n## Not yet\n");
        for entry in &self.not_yet {
            let _ = writeln!(page, "- `{}`: {}", entry.case, entry.what);
        }
        if self.not_yet.is_empty() {
            let _ = writeln!(page, "Nothing is known.");
        }
        page
    }
}

fn section(page: &mut String, title: &str, entries: &[Otherwise]) {
    let _ = writeln!(page, "\n## {title}\n");
    for entry in entries {
        let paths: Vec<_> = entry.changes.keys().map(|path| format!("`{path}`")).collect();
        let where_ = if paths.len() > 4 {
            "the whole answer".to_owned()
        } else {
            paths.join(", ")
        };
        let _ = writeln!(
            page,
            "- `{}`, step {}: {} ({where_})",
            entry.case, entry.step, entry.why
        );
    }
}

fn apply(path: &str, is: &Value, answer: &mut Answer) {
    match path.split_once('/') {
        None if path == "code" => {
            answer.code = is.as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
        }
        None if path == "body" => answer.body = is.clone(),
        Some(("body", path)) => place::set(&mut answer.body, path, (!is.is_null()).then(|| is.clone())),
        Some(("headers", name)) => {
            let values = serde_json::from_value(is.clone()).unwrap_or_default();
            answer.headers.insert(name.to_owned(), values);
        }
        _ => panic!("a path in {DATA} begins with code, headers or body, unlike {path:?}"),
    }
}
