//! Health checks: probing the backends and telling the store what came of it.

#![forbid(unsafe_code)]

pub mod threshold;
