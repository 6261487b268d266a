//! Programs that xtask builds from crates.io for itself.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{bpf, cargo};

/// One such program.
pub(crate) struct Tool<'a> {
    /// The crate, and its executable.
    pub(crate) name: &'a str,
    /// The exact version.
    pub(crate) version: &'a str,
    /// How long the build takes, in words.
    pub(crate) duration: &'a str,
    /// Further options of `cargo install`.
    pub(crate) options: &'a [&'a str],
}

impl Tool<'_> {
    /// Finds it, in `tools` or on `PATH`, or builds it into `tools`.
    ///
    /// # Errors
    ///
    /// When it does not build.
    pub(crate) fn find_or_install(&self, tools: &Path) -> Result<PathBuf> {
        let installed = tools.join("bin").join(self.name);
        match bpf::on_path(self.name) {
            _ if installed.is_file() => Ok(installed),
            Some(found) => Ok(found),
            None => self.install(tools, |_| {}),
        }
    }

    /// Builds it into `tools`, over an older one, after `prepare` has had its way with the command.
    ///
    /// # Errors
    ///
    /// When it does not build.
    pub(crate) fn install(&self, tools: &Path, prepare: impl FnOnce(&mut Command)) -> Result<PathBuf> {
        let Self {
            name,
            version,
            duration,
            options,
        } = self;
        eprintln!("building {name} {version} into {} ({duration})", tools.display());
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([
                "install",
                "--quiet",
                name,
                "--version",
                version,
                "--locked",
                "--force",
                "--root",
            ])
            .arg(tools)
            .args(*options)
            // Settings for the product are not meant for its tools.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        prepare(&mut cargo);
        cargo::succeed(&mut cargo).with_context(|| format!("cannot build {name} {version}"))?;
        Ok(tools.join("bin").join(name))
    }
}
