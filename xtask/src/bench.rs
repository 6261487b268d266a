//! `cargo xtask bench`: nanoseconds per packet, from the release build, as root.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    bpf,
    cargo::{self, Workspace},
    privilege, setup,
};

/// The BPF program that makes the packets. Only the benchmark loads it, so it is built here and not with `xlb`.
const GENERATOR: &str = "xlb-bench-ebpf";

/// Options of `cargo xtask bench`.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// Passed on to the benchmark program: see `cargo xtask bench --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the subcommand; returns only when it cannot.
pub(crate) fn run(options: &Options) -> Result<()> {
    let linker = setup::for_build()?;
    let root = privilege::for_kernel()?;
    let workspace = Workspace::find()?;
    let generator = generator(&workspace, &linker)?;
    let bench = benchmark(&workspace)?;
    let error = root
        .command(&bench, &[("XLB_BENCH_OBJECT", &generator)])
        .args(&options.arguments)
        .exec();
    Err(error).with_context(|| format!("cannot run {}", bench.display()))
}

/// Builds the generator and tells where it is.
fn generator(workspace: &Workspace, linker: &Path) -> Result<PathBuf> {
    let target = workspace.target.join("bpf");
    let mut cargo = bpf::cargo("build", linker, target.as_std_path());
    cargo.args(["--bin", GENERATOR]).current_dir(&workspace.root);
    cargo::succeed(&mut cargo)?;
    Ok(target.join(bpf::TARGET).join("release").join(GENERATOR).into())
}

/// Builds the benchmark, with the program under test inside, and tells where it is.
fn benchmark(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = workspace.cargo("bench");
    cargo.args(["--no-run", "--package=lb-tests", "--bench=bench"]);
    cargo::build_executables(cargo, |artifact| artifact.target.is_bench())?
        .pop()
        .context("cargo built no benchmark")
}
