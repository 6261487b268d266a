//! `cargo xtask bench`: nanoseconds per packet, from the release build, as root.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    cargo::{Profile, Workspace},
    privilege, setup,
};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to the benchmark program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the subcommand; returns only when it cannot.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    let root = privilege::for_kernel()?;
    let workspace = Workspace::find()?;
    let xlb = workspace.release_xlb()?;
    let bench = workspace.binary("lb-tests", "bench", Profile::Release)?;
    let error = root
        .command(&bench, &[("XLB_BIN", &xlb)])
        .args(&options.arguments)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", bench.display()))
}
