//! How the BPF programs are compiled: which linker, which flags.
//!
//! The build script of `lb-userspace` (a build), `xtask check` (clippy) and `xtask bench` (a build) all use this file, so that what
//! is linted and what is measured is what is shipped.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The compiler's target for the BPF program, little endian.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Compiler flags of the BPF program.
const FLAGS: [&str; 3] = [
    // 32-bit registers and atomic instructions, Linux 5.12.
    "-Ctarget-cpu=v3",
    // BTF is made from debug information, of dependencies too: map definitions live there.
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
];

/// A cargo command for the BPF program, to be completed with the subcommand's own options.
///
/// The pinned stable compiler is told for this one command to accept `-Z build-std`: nobody ships a compiled `core` for BPF.
/// All flags are given here and none are inherited, so that neither `RUSTFLAGS` nor clippy's wrapper around the host build
/// changes the program. Everything that cargo compares to decide what is fresh is equal in all calls, the linker for clippy
/// too, or each would compile `core` anew.
pub(crate) fn cargo(subcommand: &str, linker: &Path, target_directory: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([subcommand, "--package", "lb-ebpf", "--release"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(target_directory)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        // Set for build scripts, and watched by those of `aya-ebpf`.
        .env_remove("HOST")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    command
}

/// The linker to use: `BPF_LINKER` from the environment, else the one that `cargo xtask setup` made, else one on `PATH`.
pub(crate) fn find_linker(tools: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os("BPF_LINKER") {
        return Some(PathBuf::from(named));
    }
    let installed = tools.join("bin/bpf-linker");
    if installed.is_file() {
        return Some(installed);
    }
    on_path("bpf-linker")
}

/// First file of this name in the directories of `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH")?;
    env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Where `cargo xtask setup` installs what it builds.
///
/// Per user, so that several clones share it and `cargo clean` keeps it; per compiler release, because a BPF linker reads the
/// output of one LLVM version.
///
/// # Errors
///
/// When no home directory is known or the compiler cannot be run.
pub(crate) fn tools_directory() -> Result<PathBuf> {
    let version = compiler_version()?;
    let release = version_field(&version, "release").context("`rustc -vV` names no release")?;
    Ok(cache_directory()?.join(format!("rust-{release}")))
}

/// Where everything is kept that was fetched or built for the user's clones.
///
/// # Errors
///
/// When no home directory is known.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set; set one of them")?)
            .join(".cache"),
    };
    Ok(cache.join("xlb"))
}

/// The output of `rustc -vV`.
///
/// # Errors
///
/// When the compiler cannot be run.
pub(crate) fn compiler_version() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc)
        .arg("-vV")
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    String::from_utf8(output.stdout).context("`rustc -vV` printed no text")
}

/// The value of one `name: value` line in the output of `rustc -vV`.
pub(crate) fn version_field<'a>(version: &'a str, name: &str) -> Option<&'a str> {
    version
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
