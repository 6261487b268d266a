//! `cargo xtask build`.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{Profile, Workspace},
    setup,
};

/// Options of `cargo xtask build`.
#[derive(Args)]
pub(crate) struct Options {
    /// As it is shipped, optimised
    #[arg(long)]
    release: bool,
}

/// Runs the subcommand.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    let profile = if options.release {
        Profile::Release
    } else {
        Profile::Development
    };
    let binary = Workspace::find()?.binary("lb-userspace", "xlb", profile)?;
    println!("{}", binary.display());
    Ok(())
}
