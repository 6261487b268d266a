//! Handing over to `xlb`.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{cargo::Workspace, privilege, setup};

/// Builds `xlb` and turns this process into `xlb SUBCOMMAND ARGUMENTS...` as root, so that signals and the exit code are its own.
///
/// # Errors
///
/// Whenever it returns.
pub(crate) fn replace_process(subcommand: &str, arguments: &[String]) -> Result<()> {
    setup::for_build()?;
    let root = privilege::for_kernel()?;
    let binary = Workspace::find()?.release_xlb()?;
    let error = root.command(&binary, &[]).arg(subcommand).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", binary.display()))
}
