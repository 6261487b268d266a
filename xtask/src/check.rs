//! `cargo xtask check`: everything that can be said about the code without running it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bpf,
    cargo::{self, Workspace},
    setup,
    tool::Tool,
};

/// More lines than this is more than a person keeps in mind.
const MAX_LINES: usize = 600;

/// Reads `deny.toml`.
const CARGO_DENY: Tool<'_> = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    duration: "some minutes, once",
    options: &[],
};

/// A check and its name.
type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// The checks, the quick ones first.
const STEPS: [Step; 6] = [
    ("file sizes", file_sizes),
    ("rustfmt", rustfmt),
    ("clippy", clippy),
    ("clippy for BPF", clippy_for_bpf),
    ("rustdoc", rustdoc),
    ("cargo-deny", cargo_deny),
];

/// Runs the subcommand: all checks, even when one finds something.
pub(crate) fn run() -> Result<()> {
    setup::for_build()?;
    let workspace = Workspace::find()?;
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("== {name} ==");
        if let Err(error) = step(&workspace) {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "check failed: {}", failed.join(", "));
    println!("check passed");
    Ok(())
}

fn rustfmt(workspace: &Workspace) -> Result<()> {
    cargo::succeed(workspace.cargo("fmt").args(["--all", "--", "--check"]))
        .context("not formatted; run `cargo fmt --all`")
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo("clippy");
    cargo.args(["--workspace", "--exclude=lb-ebpf", "--all-targets", "--", "-Dwarnings"]);
    cargo::succeed(&mut cargo)
}

/// The program and what it shares with the agent, as the BPF build compiles them.
fn clippy_for_bpf(workspace: &Workspace) -> Result<()> {
    let linker = setup::for_build()?;
    let mut cargo = bpf::cargo("clippy", &linker, workspace.target.join("bpf").as_std_path());
    cargo::succeed(cargo.current_dir(&workspace.root).args(["--", "-Dwarnings"]))
}

fn rustdoc(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo("doc");
    cargo
        .args(["--workspace", "--exclude=lb-ebpf", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    cargo::succeed(&mut cargo)
}

/// Licences, bans and sources always; advisories where their database can be had.
fn cargo_deny(workspace: &Workspace) -> Result<()> {
    let program = CARGO_DENY.find_or_install(&bpf::tools_directory()?)?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(&workspace.root);
        command
    };

    let fetched = deny(&["--log-level=off", "fetch", "db"]).stdin(Stdio::null()).status();
    let mut command = deny(&[
        "--log-level=warn",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    if fetched.context("cannot run cargo-deny")?.success() {
        command.arg("advisories");
    } else {
        eprintln!("advisories: skipped, their database cannot be fetched from here");
    }
    cargo::succeed(&mut command)
}

fn file_sizes(workspace: &Workspace) -> Result<()> {
    let mut files = Vec::new();
    rust_files(workspace.root.as_std_path(), &mut files)?;
    let mut too_long = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            too_long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    if !too_long.is_empty() {
        bail!("{}; {MAX_LINES} is the most, split by topic", too_long.join(", "));
    }
    Ok(())
}

/// Collects the Rust files below a folder, leaving out hidden folders and build output.
fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        // Cargo marks its target directories, however they are named.
        let skipped = name.as_encoded_bytes().starts_with(b".") || path.join("CACHEDIR.TAG").exists();
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot read {}", path.display()))?;
        if kind.is_dir() && !skipped {
            rust_files(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace_with(file: &str, lines: usize) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        fs::write(path, "\n".repeat(lines)).expect("file");
        root
    }

    fn check(root: &tempfile::TempDir) -> Result<()> {
        let root = root.path().to_path_buf().try_into().expect("UTF-8 path");
        file_sizes(&Workspace {
            root,
            target: "unused".into(),
        })
    }

    #[test]
    fn file_at_the_limit_passes_and_one_above_is_named() {
        assert!(check(&workspace_with("src/long.rs", MAX_LINES)).is_ok());
        let error = check(&workspace_with("src/long.rs", MAX_LINES + 1)).expect_err("too long");
        assert!(error.to_string().contains("long.rs has 601 lines"), "{error}");
    }

    #[test]
    fn build_output_and_other_files_are_not_measured() {
        assert!(check(&workspace_with("src/long.yaml", MAX_LINES + 1)).is_ok());
        assert!(check(&workspace_with(".git/long.rs", MAX_LINES + 1)).is_ok());
        let root = workspace_with("target/long.rs", MAX_LINES + 1);
        fs::write(root.path().join("target/CACHEDIR.TAG"), "").expect("tag");
        assert!(check(&root).is_ok());
    }
}
