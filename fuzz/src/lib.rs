//! What is given arbitrary bytes, to find what panics on them.
//!
//! A [`Target`] is a function of bytes: a panic of it is a finding. The targets are called by two kinds of
//! programs: the test `short`, which any compiler builds and `make test` runs, and the programs of
//! `fuzz_targets`, one for each, which `cargo fuzz` builds. Beside that nothing panics, the targets check what must
//! hold of whatever is accepted, as that it reads the same once it was written.
//!
//! Reading order: [`objects`], [`patches`], [`texts`], [`images`], [`streams`], [`log`], [`requests`]; then
//! [`seeds`] and [`sample`], from which inputs begin.

pub mod images;
pub mod log;
pub mod objects;
pub mod patches;
pub mod requests;
pub mod sample;
pub mod seeds;
pub mod streams;
pub mod texts;

use stead_api::registry::{self, Kind};

/// What inputs look like, so that changes of them are not all refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Any bytes.
    Bytes,
    /// A line of text, or a few.
    Text,
    /// Lines, the first of which names a kind, and the others are JSON.
    Json,
    /// A line of a request, a media type, and a body.
    Request,
}

/// A function that is given inputs.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of the program in `fuzz_targets`, and of the folder in `corpus`.
    pub name: &'static str,
    /// What its inputs look like.
    pub form: Form,
    /// Panics when something is found.
    pub run: fn(&[u8]),
    /// Inputs to begin with, beside those in `corpus`.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("objects", Form::Json, objects::objects, seeds::objects),
    target("protobuf", Form::Bytes, objects::protobuf, seeds::protobuf),
    target("json_patch", Form::Json, patches::json_patch, seeds::patches),
    target("merge_patch", Form::Json, patches::merge_patch, seeds::patches),
    target("strategic", Form::Json, patches::strategic, seeds::patches),
    target("apply", Form::Json, patches::apply, seeds::applied),
    target("selectors", Form::Text, texts::selectors, seeds::selectors),
    target("quantities", Form::Text, texts::quantities, seeds::quantities),
    target("times", Form::Text, texts::times, seeds::times),
    target("schedules", Form::Text, texts::schedules, seeds::schedules),
    target("references", Form::Text, texts::references, seeds::references),
    target("credentials", Form::Text, texts::credentials, seeds::credentials),
    target("images", Form::Bytes, images::images, images::seeds),
    target("streams", Form::Bytes, streams::streams, streams::seeds),
    target("log", Form::Bytes, log::log, log::seeds),
    target("requests", Form::Request, requests::requests, seeds::requests),
];

const fn target(name: &'static str, form: Form, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target {
        name,
        form,
        run,
        seeds,
    }
}

/// The target of a name.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the programs have the names of targets").run)(input);
}

/// The kind that a line names, as `apps/v1 StatefulSet`; one of all for any other line.
pub fn kind(line: &[u8]) -> &'static Kind {
    let named = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split_once(' '));
    let registry = registry::builtin();
    if let Some(kind) = named.and_then(|(version, kind)| registry.kind(version, kind)) {
        return kind;
    }
    let sum = line.iter().map(|byte| usize::from(*byte)).sum::<usize>();
    let count = registry.kinds().count();
    registry.kinds().nth(sum % count).expect("there are kinds")
}

/// The first line, and what is after it.
fn split_line(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &[]),
    }
}
