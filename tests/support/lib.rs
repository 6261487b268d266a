//! The laboratory: everything that tests, demo and benchmarks need around the product.
//!
//! - [`packet`], [`diff`], [`checksum`]: packets made, compared and verified without any code of the product, so that they can judge it.
//!   [`layers`] says where in a frame things are.
//! - [`model`]: what the product must do with every frame, in plain Rust.
//! - [`program`]: one frame through a loaded XDP program by `BPF_PROG_TEST_RUN`.
//! - [`topology`]: clients, routers, gateway and backends in [`namespace`]s; [`names`] has their addresses, [`leftovers`] their end.
//! - [`gateway`]: the command `xlb` in the gateway's namespace; [`cell`]: the test matrix, and configurations for it.
//! - [`traffic`]: backends and clients with ordinary sockets; [`raw_socket`]: single frames; [`counters`]: what the kernel counted
//!   meanwhile; [`offloads`]: what devices do for their senders.
//!
//! A laboratory needs root. Device offloads stay at the kernel's defaults unless a test says otherwise.

pub mod cell;
#[cfg(feature = "packets")]
pub mod checksum;
pub mod counters;
#[cfg(feature = "packets")]
pub mod diff;
pub mod gateway;
#[cfg(feature = "packets")]
pub mod layers;
pub mod leftovers;
#[cfg(feature = "packets")]
pub mod model;
pub mod names;
pub mod namespace;
pub mod offloads;
#[cfg(feature = "packets")]
pub mod packet;
#[cfg(feature = "packets")]
pub mod program;
pub mod raw_program;
#[cfg(feature = "packets")]
pub mod raw_socket;
pub mod topology;
pub mod traffic;
pub mod wait;
