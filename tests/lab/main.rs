//! The laboratory tested by itself, without the product.

mod packets;
mod program;
mod topology;
mod traffic;
