//! The laboratory tested by itself, without the product.

mod frames;
mod packets;
mod program;
mod topology;
mod traffic;
mod wiring;
