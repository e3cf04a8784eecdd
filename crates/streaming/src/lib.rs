//! Remote commands and port-forwarding, as Kubernetes' clients speak them, on the server's side.
//!
//! A node's API has four requests that turn an HTTP connection into streams: `exec` and `attach`
//! ([`remotecommand`]), `portForward` ([`portforward`]), each over SPDY/3.1 or over WebSockets. This crate does
//! both kinds, from the request that asks for it to the last byte. It knows no pods and no containers: bytes
//! come in and go out, and what they are connected to is the caller's business.
//!
//! * [`upgrade`](Rejection): what a request offers, what is chosen, the answer;
//! * `connection`: the tasks of an upgraded connection, and how it ends without losing anything;
//! * `inbox` ([`Input`]) and `outbox` ([`Output`]): the streams, with their back-pressure;
//! * `spdy` and `websocket`: the protocols.
//!
//! It assumes an HTTP/1.1 connection served with upgrades (`hyper`'s `with_upgrades`), on which Nagle's
//! algorithm is off. Who may do what was decided before; names, limits of rate and audit are left to others.

mod activity;
mod connection;
#[doc(hidden)]
pub mod fuzz;
mod inbox;
mod outbox;
pub mod portforward;
pub mod remotecommand;
mod spdy;
mod upgrade;
mod websocket;

pub use connection::{HungUp, Timing};
pub use inbox::Input;
pub use outbox::Output;
pub use upgrade::Rejection;
