//! Replaying what a real Kubernetes did (`tests/golden/statefulset`, `tests/golden/controllers`): the cases, and
//! how what happens here is compared with them. Everything here is pure; the requests are made by the tests.
//!
//! A recording says what became of pods, in order; what objects look like once things have settled; and which
//! events were recorded. Values that differ from run to run are written as placeholders in both.

mod case;
mod compare;
mod differences;
mod names;
mod pods;
mod shown;

pub use case::{Bounds, Call, Case, Expected, See, Step};
pub use compare::{compare, compare_events};
pub use differences::{Differences, NotYet};
pub use names::Names;
pub use pods::{Naming, Order, PodEvent, Pods, Progress, progress};
pub use shown::shown;
