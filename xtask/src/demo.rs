//! `cargo xtask demo`: shows xlb at work in network namespaces, with the release build, as root.

use anyhow::Result;
use clap::Args;

use crate::xlb;

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to `xlb demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the subcommand; returns only when it cannot.
pub(crate) fn run(options: &Options) -> Result<()> {
    xlb::replace_process("demo", &options.arguments)
}
