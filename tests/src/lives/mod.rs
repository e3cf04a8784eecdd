//! The lives of pods, as a real Kubernetes showed them (`tests/golden/pods`), compared with what is shown here.
//! Everything here is pure; the pods are made by the tests.
//!
//! A recording has one pod, what was done to it, each status that a watch showed, and the events. Who is faster may
//! pass over what was recorded, but must not contradict it: each status has to be one of those recorded, in their
//! order, and the last one has to come. Values that differ from run to run are placeholders in both.

mod differences;
mod follow;
mod recording;
mod shown;
mod told;

pub use differences::{Differences, Rule};
pub use follow::Life;
pub use recording::{Action, Recording};
pub use shown::{Run, snapshot};
pub use told::{Told, compare_told};
