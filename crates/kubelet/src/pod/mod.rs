//! One worker per pod: what it knows (`observed`), what it does next (`plan`, pure), what it tells
//! the API (`status`, pure), what its containers are to be (`env`, `fields`), and the worker itself,
//! which does it.

pub(crate) mod adopt;
pub(crate) mod container;
pub(crate) mod env;
mod exits;
pub(crate) mod fields;
pub(crate) mod jobs;
pub(crate) mod observed;
mod patch;
pub(crate) mod plan;
mod signals;
pub(crate) mod status;
pub(crate) mod wanted;
pub(crate) mod worker;
