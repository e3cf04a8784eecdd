//! The verbs on resources.

mod applying;
mod delete;
mod list;
mod patching;
mod prepare;
mod read;
mod watch;
mod write;

pub(crate) use applying::creation;
pub(crate) use delete::{delete, delete_collection, remove};
pub(crate) use list::list;
pub(crate) use patching::patch_with;
pub(crate) use prepare::{fit_to_namespace, new_uid, random_suffix};
pub(crate) use read::{current, get};
pub(crate) use watch::watch;
pub(crate) use write::{
    Change, Failure, Written, create, patch, patch_part, update, update_part, write_update,
};
