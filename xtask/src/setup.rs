//! `cargo xtask setup`: what a build and the tests need. Fast when all is there, so that every other subcommand calls it.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{bpf, cargo, debian, linker};

/// Runs the subcommand.
pub(crate) fn run() -> Result<()> {
    let linker = for_build()?;
    println!("rust-src: installed");
    println!("bpf-linker: {}", linker.display());
    match debian::missing(&debian::LABORATORY) {
        missing if missing.is_empty() => println!("laboratory: ip, nsenter found"),
        missing => println!("laboratory: {}", debian::advice(&missing)),
    }
    Ok(())
}

/// Makes sure of what every build needs and tells which BPF linker it uses.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub(crate) fn for_build() -> Result<PathBuf> {
    make_sure_of_rust_src()?;
    linker::make_sure()
}

/// The source of `core`, from which the BPF build compiles its own.
fn make_sure_of_rust_src() -> Result<()> {
    if linker::sysroot()?
        .join("lib/rustlib/src/rust/library/core/src/lib.rs")
        .is_file()
    {
        return Ok(());
    }
    if bpf::on_path("rustup").is_none() {
        bail!("rust-src is missing and there is no rustup to add it; install Rust by https://rustup.rs");
    }
    eprintln!("installing rust-src");
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]);
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        rustup.arg("--toolchain").arg(toolchain);
    }
    cargo::succeed(&mut rustup).context("cannot install rust-src; see `rustup component add rust-src`")
}
