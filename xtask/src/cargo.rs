//! Calling cargo for the host, and finding what it built.

use std::{
    env,
    io::BufReader,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Message, MetadataCommand, camino::Utf8PathBuf};

/// Where the workspace is and where it builds.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: Utf8PathBuf,
    /// Cargo's target directory.
    pub(crate) target: Utf8PathBuf,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// When cargo rejects the manifests.
    pub(crate) fn find() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .no_deps()
            .exec()
            .context("cannot read the workspace")?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
        })
    }

    /// A cargo command at the root of the workspace.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(subcommand).current_dir(&self.root);
        command
    }

    /// Builds `xlb` as it is shipped and tells where it is.
    ///
    /// # Errors
    ///
    /// When it does not build.
    pub(crate) fn release_binary(&self) -> Result<PathBuf> {
        let mut cargo = self.cargo("build");
        cargo.args(["--release", "--package", "lb-userspace", "--bin", "xlb"]);
        only(build_executables(cargo)?, "xlb")
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// When it cannot be started or does not succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// Runs a cargo command that builds, shows the compiler's messages, and returns the executables it made, fresh ones included.
///
/// # Errors
///
/// When it does not build.
pub(crate) fn build_executables(mut cargo: Command) -> Result<Vec<PathBuf>> {
    let mut child = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut executables = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message.context("cannot read cargo's messages")? {
            executables.extend(artifact.executable.map(Utf8PathBuf::into_std_path_buf));
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "the build failed; see above");
    Ok(executables)
}

/// The one executable that a build of `name` made.
///
/// # Errors
///
/// When there is none or more than one.
pub(crate) fn only(executables: Vec<PathBuf>, name: &str) -> Result<PathBuf> {
    let [executable] = <[PathBuf; 1]>::try_from(executables)
        .map_err(|found| anyhow::anyhow!("expected one executable of {name}, cargo built {}", found.len()))?;
    Ok(executable)
}
