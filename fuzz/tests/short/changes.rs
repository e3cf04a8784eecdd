//! Inputs from inputs: bytes, texts and JSON values are replaced, repeated, left out and put in from elsewhere.

use fastrand::Rng;
use serde_json::{Map, Value};
use stead_fuzz::{Form, Target, requests, sample};

/// Longer inputs are cut.
const MAX_BYTES: usize = 64 * 1024;
/// Texts that mean something within others.
const WORDS: &[&str] = &[
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "---\n",
    "&a ",
    "*a",
    "!!binary ",
    "<<: ",
    "null",
    "true",
    "1e400",
    "-0",
    "0.1",
    "18446744073709551616",
    "=",
    "!=",
    "==",
    "!",
    "in (",
    "notin (",
    ")",
    "@every ",
    "@",
    "*/",
    "-",
    "/",
    "//",
    "..",
    "%2F",
    "%00",
    "%",
    "?",
    "&",
    "watch=true",
    "limit=1",
    "continue=",
    "labelSelector=",
    "fieldSelector=",
    "resourceVersion=",
    "resourceVersionMatch=Exact",
    "pretty=true",
    "fieldValidation=Strict",
    "status",
    "scale",
    "propagationPolicy=Orphan",
    "gracePeriodSeconds=0",
    "\u{feff}",
    "ä",
    "\u{2028}",
    "\u{10ffff}",
    "é̂",
];
const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json application/vnd.kubernetes.protobuf",
    "application/json application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    "application/json application/yaml",
];
/// Members that patches give a meaning.
const MEMBERS: &[&str] = &[
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "op",
    "path",
    "from",
    "value",
    "name",
    "metadata",
    "spec",
    "status",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "managedFields",
    "apiVersion",
    "kind",
];

/// Makes inputs for a target.
pub(crate) struct Changes {
    form: Form,
    seeds: Vec<Vec<u8>>,
    random: Rng,
}

impl Changes {
    /// Begins with some inputs.
    pub(crate) fn new(target: &Target, seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!seeds.is_empty(), "{} has nothing to begin with", target.name);
        Self {
            form: target.form,
            seeds,
            random: Rng::with_seed(seed),
        }
    }

    /// The next input.
    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        if self.form == Form::Request && self.random.u8(..3) == 0 {
            let mut input = requests::sample(&mut self.random);
            if self.random.bool() {
                self.change(&mut input);
            }
            return input;
        }
        let mut input = self.seed().to_vec();
        for _ in 0..self.random.usize(1..6) {
            self.change(&mut input);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn seed(&mut self) -> &[u8] {
        &self.seeds[self.random.usize(..self.seeds.len())]
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let changed = match self.form {
            Form::Json if self.random.u8(..5) > 0 => self.change_document(input, 1),
            Form::Request => match self.random.u8(..8) {
                0 => self.change_line(input),
                1 => replace_line(input, 1, MEDIA[self.random.usize(..MEDIA.len())].as_bytes()),
                2 => false,
                _ => self.change_document(input, 2),
            },
            _ => false,
        };
        if !changed {
            self.change_bytes(input);
        }
    }

    /// Changes the first line, as a text.
    fn change_line(&mut self, input: &mut Vec<u8>) -> bool {
        let mut line = line(input, 0).to_vec();
        self.change_bytes(&mut line);
        line.retain(|byte| *byte != b'\n');
        replace_line(input, 0, &line)
    }

    /// Changes one of the documents, which begin with a line; true if there is one.
    fn change_document(&mut self, input: &mut Vec<u8>, first: usize) -> bool {
        let documents = input.split(|byte| *byte == b'\n').count().saturating_sub(first);
        if documents == 0 {
            return false;
        }
        let at = first + self.random.usize(..documents);
        if self.form == Form::Json && self.random.u8(..6) == 0 {
            let kind = stead_fuzz::kind(line(input, 0));
            let made = sample::object(kind, &mut self.random);
            return replace_line(input, at, made.to_string().as_bytes());
        }
        let Ok(mut document) = serde_json::from_slice::<Value>(line(input, at)) else {
            return false;
        };
        self.change_value(&mut document, first);
        replace_line(input, at, document.to_string().as_bytes())
    }

    fn change_value(&mut self, document: &mut Value, first: usize) {
        let other = self.random.bool().then(|| self.value_of_another(first)).flatten();
        let new = other.unwrap_or_else(|| self.value());
        let key = self.member();
        let place = self.random.u8(..);
        match (within(document, &mut self.random), place % 4) {
            (Value::Array(items), 0) if !items.is_empty() => {
                items.swap_remove(usize::from(place) % items.len());
            }
            (Value::Array(items), 1) if !items.is_empty() => {
                let item = items[usize::from(place) % items.len()].clone();
                items.push(item);
            }
            (Value::Array(items), 2) => items.push(new),
            (Value::Object(members), 0) => drop(take(members, place)),
            (Value::Object(members), 1) => {
                let value = take(members, place).unwrap_or(new);
                members.insert(key, value);
            }
            (Value::Object(members), 2) => {
                members.insert(key, new);
            }
            (value, _) => *value = new,
        }
    }

    /// A piece of a document elsewhere.
    fn value_of_another(&mut self, first: usize) -> Option<Value> {
        let at = first + self.random.usize(..2);
        let seed = self.seed();
        let mut document = serde_json::from_slice::<Value>(line(seed, at)).ok()?;
        Some(within(&mut document, &mut self.random).take())
    }

    fn value(&mut self) -> Value {
        let random = &mut self.random;
        match random.u8(..10) {
            0 => Value::Null,
            1 => random.bool().into(),
            2 | 3 => sample::number(random).into(),
            4 => (sample::number(random) as f64 / 7.0).into(),
            5 => Value::Array(Vec::new()),
            6 => Value::Object(Map::new()),
            7 => "x".repeat(random.usize(..300)).into(),
            _ => sample::text(random).into(),
        }
    }

    fn member(&mut self) -> String {
        let random = &mut self.random;
        let name = match random.bool() {
            true => MEMBERS[random.usize(..MEMBERS.len())],
            false => sample::text(random),
        };
        name.to_owned()
    }

    /// Changes any bytes.
    fn change_bytes(&mut self, input: &mut Vec<u8>) {
        let at = self.random.usize(..=input.len());
        let most = self.most(input.len());
        let end = (at + self.random.usize(..=most)).min(input.len());
        let random = &mut self.random;
        match random.u8(..9) {
            0 => drop(input.drain(at..end)),
            1 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            2 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            3 if at < input.len() => input[at] = random.u8(..),
            4 => input.insert(at, random.u8(..)),
            5 => {
                let word = sample::text(random);
                input.splice(at..end, word.bytes());
            }
            6 => {
                let piece = WORDS[random.usize(..WORDS.len())].repeat(1 << random.u8(..10).saturating_sub(3));
                input.splice(at..end, piece.bytes());
            }
            7 => {
                let number = sample::number(random).to_string();
                input.splice(at..end, number.bytes());
            }
            _ => {
                let other = self.seed();
                let from = at.min(other.len());
                let piece = other[from..(from + end - at + 8).min(other.len())].to_vec();
                input.splice(at..end, piece);
            }
        }
    }

    /// How much is replaced at once: mostly little.
    fn most(&mut self, length: usize) -> usize {
        match self.random.u8(..4) {
            0 => length,
            _ => length.min(8),
        }
    }
}

/// Somewhere in a value.
fn within<'v>(value: &'v mut Value, random: &mut Rng) -> &'v mut Value {
    let below = match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    if below == 0 || random.u8(..7) == 0 {
        return value;
    }
    let at = random.usize(..below);
    let next = match value {
        Value::Array(items) => items.get_mut(at),
        Value::Object(members) => members.values_mut().nth(at),
        _ => None,
    };
    within(next.expect("so many are below"), random)
}

fn take(members: &mut Map<String, Value>, place: u8) -> Option<Value> {
    let key = members
        .keys()
        .nth(usize::from(place) % members.len().max(1))?
        .clone();
    members.remove(&key)
}

fn line(input: &[u8], at: usize) -> &[u8] {
    input.split(|byte| *byte == b'\n').nth(at).unwrap_or_default()
}

/// Puts another line in; true if there was one.
fn replace_line(input: &mut Vec<u8>, at: usize, new: &[u8]) -> bool {
    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let Some(line) = lines.get_mut(at) else {
        return false;
    };
    *line = new;
    *input = lines.join(&b'\n');
    true
}
