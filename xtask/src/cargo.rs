//! Calling cargo for the host, and finding what it built.

use std::{
    env,
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{Artifact, Message, MetadataCommand, camino::Utf8PathBuf};

/// How much a build is optimised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Development,
    /// As it is shipped.
    Release,
}

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

    /// Builds one binary and tells where it is.
    ///
    /// # Errors
    ///
    /// When it does not build.
    pub(crate) fn binary(&self, package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
        let mut cargo = self.cargo("build");
        cargo.args(["--package", package, "--bin", name]);
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        build_executables(cargo, |artifact| artifact.target.name == name)?
            .pop()
            .with_context(|| format!("cargo built no executable `{name}`"))
    }

    /// Builds `xlb` as it is shipped and tells where it is.
    ///
    /// # Errors
    ///
    /// When it does not build.
    pub(crate) fn release_xlb(&self) -> Result<PathBuf> {
        self.binary("lb-userspace", "xlb", Profile::Release)
    }
}

/// Runs a command to its end.
///
/// # Errors
///
/// When it cannot be started or does not succeed.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).display().to_string();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// Runs a cargo command that builds, shows the compiler's messages, and returns the executables that are `wanted`, fresh ones
/// included. Cargo names more than it was asked for: the binaries of a package come along with its tests.
///
/// # Errors
///
/// When it does not build.
pub(crate) fn build_executables(mut cargo: Command, wanted: impl Fn(&Artifact) -> bool) -> Result<Vec<PathBuf>> {
    let mut child = cargo
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut executables = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        match message.context("cannot read cargo's messages")? {
            Message::CompilerArtifact(artifact) if wanted(&artifact) => {
                executables.extend(artifact.executable.map(Utf8PathBuf::into_std_path_buf));
            }
            _ => {}
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(status.success(), "the build failed; see above");
    Ok(executables)
}
