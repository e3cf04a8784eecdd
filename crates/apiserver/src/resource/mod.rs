//! The verbs on resources.

mod delete;
mod list;
mod read;
mod watch;
mod write;

pub(crate) use delete::{delete, delete_collection, remove};
pub(crate) use list::list;
pub(crate) use read::{current, get};
pub(crate) use watch::watch;
pub(crate) use write::{
    Change, Written, create, new_uid, patch, patch_part, patch_with, random_suffix, update, update_part,
    write_update,
};
