//! `cargo xtask run`: runs the agent on this host, with the release build, as root.

use anyhow::Result;
use clap::Args;

use crate::xlb;

/// Options of `cargo xtask run`.
#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to `xlb run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the subcommand; returns only when it cannot.
pub(crate) fn run(options: &Options) -> Result<()> {
    xlb::replace_process("run", &options.arguments)
}
