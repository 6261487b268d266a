//! `cargo xtask fuzz`: looks for content that breaks the configuration's parser or the packet logic, with cargo-fuzz.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    bpf,
    cargo::{self, Workspace},
    setup,
    tool::Tool,
};

/// Builds and runs the targets.
const CARGO_FUZZ: Tool<'_> = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
    duration: "about a minute, once",
    options: &[],
};

/// Where targets, seeds and past findings are, in the workspace.
const FOLDER: &str = "tests/fuzz";

/// Seconds after which one input has taken too long.
const SLOWEST_INPUT: u32 = 10;

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct Options {
    /// Which targets; without any, all of them
    #[arg(value_name = "TARGET")]
    targets: Vec<Target>,
    /// How long each of them runs
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
}

/// A fuzz target: a property below `tests/fuzz/properties`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Content of a configuration file
    Config,
    /// Headers of frames
    Parse,
    /// Checksums of rewritten packets
    Checksum,
    /// Port ranges as prefixes
    PortPrefix,
    /// Choice of a source port
    PortPick,
    /// Prefixes and kinds of addresses
    Address,
}

/// Runs the subcommand: all targets one after the other, even when one finds something.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_build()?;
    let cargo_fuzz = CARGO_FUZZ.find_or_install(&bpf::tools_directory()?)?;
    let workspace = Workspace::find()?;
    let targets = match options.targets.as_slice() {
        [] => Target::value_variants(),
        chosen => chosen,
    };
    let mut failed = Vec::new();
    for target in targets {
        let name = target.name();
        eprintln!("== {name}, {} min ==", options.minutes);
        let ended = cargo::succeed(&mut target.command(&cargo_fuzz, &workspace, options.minutes)?);
        if let Err(error) = ended {
            eprintln!("error: {name}: {error:#}");
            eprint!("{}", target.advice(workspace.root.as_std_path())?);
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "fuzzing failed: {}", failed.join(", "));
    println!("nothing found");
    Ok(())
}

impl Target {
    /// Its name on the command line and below `tests/fuzz`.
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The package and test that goes through its seeds and past findings.
    const fn replay(self) -> (&'static str, &'static str) {
        match self {
            Self::Config => ("lb-userspace", "robustness"),
            Self::Parse | Self::Checksum | Self::PortPrefix | Self::PortPick | Self::Address => ("lb-common", "fuzz"),
        }
    }

    /// Folders with inputs to begin with, from the workspace's root.
    fn seeds(self) -> Vec<String> {
        let own = ["seeds", "crashes"].map(|folder| format!("{FOLDER}/{folder}/{}", self.name()));
        let configurations = match self {
            Self::Config => &["tests/configs/valid", "tests/configs/broken", "deploy"][..],
            _ => &[],
        };
        own.into_iter()
            .chain(configurations.iter().map(|&folder| folder.to_owned()))
            .collect()
    }

    /// The command that builds it and runs it for that long. What it learns is kept in `tests/fuzz/corpus`, beside the seeds.
    fn command(self, cargo_fuzz: &Path, workspace: &Workspace, minutes: u64) -> Result<Command> {
        let name = self.name();
        let folder = workspace.root.join(FOLDER);
        let corpus = folder.join("corpus").join(&name);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot create {corpus}"))?;
        let mut command = Command::new(cargo_fuzz);
        command
            .arg("run")
            .args(["--fuzz-dir", folder.as_str()])
            .arg("--target-dir")
            .arg(workspace.target.join("fuzz"))
            // The agent takes minutes to build, and only one target needs it.
            .args((self != Self::Config).then_some("--no-default-features"))
            .arg(&name)
            .arg(&corpus)
            .args(
                self.seeds()
                    .into_iter()
                    .filter(|seeds| workspace.root.join(seeds).is_dir()),
            )
            .arg("--")
            .arg(format!("-max_total_time={}", minutes * 60))
            .arg(format!("-timeout={SLOWEST_INPUT}"))
            .arg("-print_final_stats=1")
            .current_dir(&workspace.root)
            // The pinned compiler has all that a nightly one has; it only asks to be told. The build script of lb-userspace needs
            // this one: the BPF linker reads no other compiler's output.
            .env("RUSTC_BOOTSTRAP", "1");
        let dictionary = folder.join("dictionaries").join(&name);
        if dictionary.is_file() {
            command.arg(format!("-dict={dictionary}"));
        }
        Ok(command)
    }

    /// What to do with what was found.
    fn advice(self, root: &Path) -> Result<String> {
        let name = self.name();
        let findings = files(&root.join(FOLDER).join("artifacts").join(&name))?;
        if findings.is_empty() {
            return Ok(String::new());
        }
        let (package, test) = self.replay();
        let mut advice = String::new();
        for finding in findings {
            advice += &format!("found: {}\n", finding.display());
        }
        advice += &format!(
            "move it to {FOLDER}/crashes/{name}/, under a name that says what it is; see it fail in \
             `cargo test --package {package} --test {test}`; mend the cause\n"
        );
        Ok(advice)
    }
}

/// The files of a folder by name; none when there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths
        .collect::<io::Result<_>>()
        .with_context(|| format!("cannot list {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER)
    }

    #[test]
    fn every_target_of_the_folder_can_be_named() {
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
            paths.iter().map(stem).collect()
        };
        let mut known: Vec<String> = Target::value_variants().iter().map(|target| target.name()).collect();
        known.sort();
        assert_eq!(names(files(&folder().join("targets")).expect("targets")), known);
    }

    #[test]
    fn every_target_has_seeds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for target in Target::value_variants() {
            let seeds = target
                .seeds()
                .into_iter()
                .flat_map(|seeds| files(&root.join(seeds)).expect("seeds"));
            assert!(seeds.count() > 2, "{target:?}");
        }
    }

    #[test]
    fn finding_is_named_with_what_to_do() {
        let root = tempfile::tempdir().expect("temporary folder");
        assert_eq!(Target::Config.advice(root.path()).expect("advice"), "", "nothing found");

        let artifacts = root.path().join(FOLDER).join("artifacts/config");
        fs::create_dir_all(&artifacts).expect("folder");
        fs::write(artifacts.join("crash-1"), "- ").expect("finding");
        let advice = Target::Config.advice(root.path()).expect("advice");
        for part in [
            "config/crash-1\n",
            "tests/fuzz/crashes/config/",
            "--package lb-userspace --test robustness",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
    }
}
