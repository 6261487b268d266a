//! Compiles the BPF program `lb-ebpf` into `OUT_DIR/xlb-ebpf`, from where the agent embeds it.

#[path = "../xtask/src/bpf.rs"]
mod bpf;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};

/// Name of the object, both as a binary of `lb-ebpf` and in `OUT_DIR`.
const OBJECT: &str = "xlb-ebpf";

/// What the program is made from, relative to the workspace.
const INPUTS: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    "lb-common/Cargo.toml",
    "lb-common/src",
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/src",
    "xtask/src/bpf.rs",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?);
    let workspace = package.parent().context("the package lies in no workspace")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);

    // Cargo repeats a failed build script whatever was printed: nothing is, until the linker is there.
    let linker =
        bpf::find_linker(&bpf::tools_directory()?).context("bpf-linker is missing; run `cargo xtask setup`")?;
    println!("cargo::rerun-if-changed={}", linker.display());
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    for variable in ["BPF_LINKER", "XDG_CACHE_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }

    let target_directory = target_directory(&out)?;
    let mut cargo = bpf::cargo("build", &linker, &target_directory);
    let status = cargo
        .args(["--bin", OBJECT])
        .current_dir(workspace)
        .status()
        .context("cannot run cargo for the BPF program")?;
    ensure!(
        status.success(),
        "cannot build the BPF program with {}; see above, and try `cargo xtask setup`",
        linker.display()
    );

    let object = target_directory.join(bpf::TARGET).join("release").join(OBJECT);
    fs::copy(&object, out.join(OBJECT)).with_context(|| format!("cannot copy {}", object.display()))?;
    Ok(())
}

/// A target directory of its own, `target/bpf`: cargo holds the lock of the one it was started with.
///
/// All profiles of the host build share it, since the BPF program is always the release build.
fn target_directory(out: &Path) -> Result<PathBuf> {
    // target/<profile>/build/<package>-<hash>/out
    let target = out
        .ancestors()
        .nth(4)
        .with_context(|| format!("{} is no build directory of cargo", out.display()))?;
    Ok(target.join("bpf"))
}
