//! `cargo xtask build`.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{self, Workspace},
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
    let workspace = Workspace::find()?;
    let binary = if options.release {
        workspace.release_binary()?
    } else {
        let mut cargo = workspace.cargo("build");
        cargo.args(["--package", "lb-userspace", "--bin", "xlb"]);
        cargo::only(cargo::build_executables(cargo)?, "xlb")?
    };
    println!("{}", binary.display());
    Ok(())
}
