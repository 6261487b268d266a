//! What depends on the kernel: `cargo xtask test kernels` runs this in virtual machines, each part where it belongs.

mod floor;
mod instructions;
mod programs;
