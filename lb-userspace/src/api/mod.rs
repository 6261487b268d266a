//! The agent's HTTP interface on its Unix socket: what commands and scripts talk to.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/status` | [`status::Status`] as JSON |

#![forbid(unsafe_code)]

pub mod client;
pub mod server;
pub mod status;
