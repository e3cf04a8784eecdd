//! The network as a whole, in throwaway network namespaces, with real packets.
//!
//! A [`namespace::Namespace`] plays the machine, others play pods and other machines. They vanish with
//! their last file descriptor, whatever a test does. Needs root; uses nothing but this crate and the kernel.

#![allow(clippy::unwrap_used)]

mod lifecycle;
mod namespace;
mod node_ports;
mod obstacles;
mod pods;
mod proxied;
mod services;
mod takeover;
mod uplinks;
