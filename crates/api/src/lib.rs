//! What each kind of the Kubernetes API is, with no I/O.
//!
//! Reading order: [`schema`] (types as data, decoding), [`registry`] (one entry per kind, from
//! which routes, discovery, defaults, validation, tables and selectors follow), [`kinds`] (the
//! entries), [`object`] (what a kind's logic may say), [`patch`], [`table`], [`openapi`]. This
//! crate knows no HTTP, no storage and no client: values in, values or errors out.

pub mod apply;
pub mod discovery;
pub mod error;
mod go;
pub mod json;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
mod path;
pub mod quantity;
pub mod quota;
pub mod registry;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod table;
pub mod time;
mod whole;

/// The version of Kubernetes whose API this is.
pub const KUBERNETES_VERSION: (&str, &str, &str) = ("1", "37", "0");
