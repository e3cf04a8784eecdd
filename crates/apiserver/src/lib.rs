//! The API server: HTTP in front of the store.
//!
//! Reading order: [`server`] (what a server is made of, and how a request finds its handler),
//! `request` and `options` (what is asked), `body` (what is sent), `stored` (what is kept),
//! `resource` (the verbs), `subresource`, `admission`, `respond`, `protobuf`, `compress`; then [`listen`] (TLS and
//! connections), [`authn`], `authz`, [`pki`], [`files`], [`bootstrap`].
//!
//! A server is a tower service ([`ApiServer::router`]), so that the parts of one process call it
//! without a socket, through the same authorization as everyone else. Defaults, checks and tables
//! are `stead-api`'s; durability, revisions and history are `stead-store`'s; this crate knows what
//! HTTP makes of them. It runs no controller, but for chores of
//! its own objects ([`ApiServer::run`]), and holds no state of its own beside the store's.

mod admission;
pub mod audit;
pub mod authn;
mod authz;
mod body;
pub mod bootstrap;
mod caveat;
mod compress;
mod endpoints;
mod events_ttl;
mod fairness;
pub mod files;
pub mod identity;
pub mod listen;
mod lookup;
mod metrics;
mod node_proxy;
mod nonresource;
mod options;
pub mod pki;
mod protobuf;
mod quota;
mod request;
mod resource;
mod respond;
mod reviews;
pub mod server;
mod services;
mod signing;
mod stored;
mod subresource;

pub use identity::Identity;
pub use node_proxy::NodeClient;
pub use server::{ApiServer, Config};
