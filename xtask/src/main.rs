//! Every command that a developer of xlb needs: `cargo xtask help`.

fn main() {}
