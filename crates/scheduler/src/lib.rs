//! The scheduler: finds a node for each pod that has none, and binds the pod to it ("Kubernetes
//! Scheduler").
//!
//! One pod at a time is decided on, by priority and age: [`decide`](decide) is pure and runs over a
//! [`cluster`] that is kept up to date by the informers and by what was decided a moment ago.
//! Binding, which waits for volumes and for the API, runs beside ([`bind`]). A pod that fits nowhere
//! waits in the [`queue`] for a change that may help it; nothing is polled.
//!
//! The scheduler keeps nothing that a restart would lose. A constraint that it does not know ends in
//! `FailedScheduling`, never in a placement that disregards it. It does not preempt yet.

mod bind;
mod cluster;
mod decide;
mod filter;
mod message;
mod pod;
mod queue;
mod report;
mod resources;
mod scheduler;
mod score;

pub use scheduler::{NAME, Scheduler};
