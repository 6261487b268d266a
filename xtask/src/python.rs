//! A Python environment for what the `real` tests run in Python.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{bpf, cargo};

/// What it holds, from PyPI.
const PACKAGE: &str = "aioquic==1.7.2";

/// Makes sure of the environment, in the cache beside the tools, and returns its Python.
///
/// # Errors
///
/// When Python or its module `venv` is missing, or the package can't be had.
pub(crate) fn make_sure() -> Result<PathBuf> {
    let directory = bpf::cache_directory()?.join(format!("python-{PACKAGE}"));
    let python = directory.join("bin/python");
    if is_complete(&python) {
        return Ok(python);
    }
    eprintln!("installing {PACKAGE} into {}", directory.display());
    let mut venv = Command::new("python3");
    cargo::succeed(venv.args(["-m", "venv", "--clear"]).arg(&directory))
        .context("cannot make a Python environment: run `apt-get install python3-venv`")?;
    let mut install = Command::new(&python);
    cargo::succeed(install.args(["-m", "pip", "install", "--quiet", PACKAGE]))
        .with_context(|| format!("cannot install {PACKAGE} from PyPI"))?;
    Ok(python)
}

/// Whether an earlier installation came to its end.
fn is_complete(python: &Path) -> bool {
    let import = Command::new(python).args(["-c", "import aioquic"]).output();
    import.is_ok_and(|output| output.status.success())
}
