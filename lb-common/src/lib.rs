//! What the XDP program and the agent share: the layout of every map, and all packet logic that needs no kernel.
//!
//! Everything here is `no_std` and free of side effects, so that the same code runs in the kernel, in the agent and under plain
//! `cargo test`. Map types are `#[repr(C)]` with explicit, zeroed padding, because a hash map compares keys byte by byte and
//! because user space and kernel are two compilations. The size of each one is asserted next to it: a layout changes on purpose,
//! together with [`LAYOUT_VERSION`], or not at all.

#![cfg_attr(not(any(test, feature = "user")), no_std)]

pub mod address;
pub mod backend;
pub mod byte_order;
pub mod checksum;
pub mod connection;
pub mod counters;
pub mod flow;
pub mod fragment;
pub mod interface;
pub mod limits;
pub mod maps;
pub mod packet;
pub mod port_prefix;
pub mod role;
pub mod scheduler;
pub mod service;
pub mod settings;
pub mod verdict;

pub use address::Address;

/// Version of everything that stays in the kernel when the agent stops: map names, key and value layouts, the meaning of each field.
///
/// It is stored in the pinned settings map. An agent adopts what is pinned only when the versions agree; raise it with every
/// change of a map type.
pub const LAYOUT_VERSION: u32 = 2;
