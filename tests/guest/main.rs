//! What depends on the kernel: `cargo xtask test kernels` runs this in virtual machines, each part where it belongs.

mod attachment;
mod conversation;
mod floor;
mod instructions;
mod ipvs;
mod programs;
