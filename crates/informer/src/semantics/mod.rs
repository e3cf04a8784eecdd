//! What some fields mean, where more than one component reads them: quantities ([`Amount`]), label
//! selectors ([`Selector`]), nodes that a selector means ([`node_selector`]), taints ([`taints`]),
//! how pods are ([`pods`]), which volume a claim may have ([`volumes`]), and which ports of a node a pod takes ([`HostPort`]).
//!
//! All of it is pure, and takes objects that the API server has checked: what cannot be read there
//! means nothing here, rather than an error.

mod amount;
mod host_ports;
pub mod node_selector;
pub mod pods;
mod selector;
pub mod taints;
pub mod volumes;

pub use amount::Amount;
pub use host_ports::{HostPort, host_ports};
pub use selector::Selector;
