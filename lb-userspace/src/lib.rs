//! The agent of xlb, as a library for its binary and its tests. `README.md` beside this crate shows the layers.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod demo;
pub mod describe;
pub mod expiry;
pub mod health;
pub mod interfaces;
pub mod model;
pub mod netlink;
pub mod reconciler;
pub mod scheduler;
