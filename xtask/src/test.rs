//! `cargo xtask test`: the layers of tests, counted together.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    cargo::{self, Workspace},
    debian, kernels,
    privilege::{self, Root},
    python, setup,
    tally::Tally,
};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Which layers; without any, all that need nothing from outside (all but `real` and `kernels`)
    layers: Vec<Choice>,
    /// Runs at full length what is cut short else: a million packets against the model of the data plane (`XLB_LONG`)
    #[arg(long)]
    long: bool,
    /// Passed on to the test programs: a filter, `--nocapture`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What can be named on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Tests beside the code
    Unit,
    /// The agent on fake and faulty data planes
    Agent,
    /// The real program by test run, packet by packet (root)
    Packet,
    /// The laboratory itself (root)
    Lab,
    /// Client, gateway and backends in namespaces (root)
    Netns,
    /// nginx, curl, iperf3 and others through the balancer (root); installs them when absent
    Real,
    /// The programs on Debian's kernels in virtual machines, beside IPVS (root); installs QEMU, fetches the kernels
    Kernels,
    /// Every layer
    All,
}

/// One layer of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Unit,
    Agent,
    Packet,
    Lab,
    Netns,
    Real,
    Kernels,
}

/// The layers in the order they run: what fails fastest comes first.
const LAYERS: [Layer; 7] = [
    Layer::Unit,
    Layer::Agent,
    Layer::Packet,
    Layer::Lab,
    Layer::Netns,
    Layer::Real,
    Layer::Kernels,
];

/// Runs the subcommand. The exit code is 1 when a test failed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::for_build()?;
    let layers = chosen(&options.layers);
    let root = layers
        .iter()
        .any(|layer| layer.needs_root())
        .then(privilege::for_kernel)
        .transpose()?;
    if let Some(root) = root {
        let needed = layers.iter().flat_map(|layer| layer.programs()).copied();
        debian::make_sure_of(&needed.collect::<Vec<_>>(), root)?;
    }

    let workspace = Workspace::find()?;
    let mut sum = Tally::default();
    for layer in layers {
        eprintln!("== {} ==", layer.name());
        match layer.run(&workspace, root, options) {
            Ok(tally) => sum.add(tally),
            Err(error) => {
                eprintln!("error: layer {}: {error:#}", layer.name());
                sum.failed += 1;
            }
        }
    }
    println!("{sum}");
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The layers that a command line asks for.
fn chosen(choices: &[Choice]) -> Vec<Layer> {
    let asked = |layer: &Layer| {
        choices.contains(&layer.choice())
            || choices.contains(&Choice::All)
            || (choices.is_empty() && layer.programs().is_empty())
    };
    LAYERS.into_iter().filter(asked).collect()
}

impl Layer {
    const fn choice(self) -> Choice {
        match self {
            Self::Unit => Choice::Unit,
            Self::Agent => Choice::Agent,
            Self::Packet => Choice::Packet,
            Self::Lab => Choice::Lab,
            Self::Netns => Choice::Netns,
            Self::Real => Choice::Real,
            Self::Kernels => Choice::Kernels,
        }
    }

    /// Name on the command line, and of the test target of `lb-tests`.
    const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Agent => "agent",
            Self::Packet => "packet",
            Self::Lab => "lab",
            Self::Netns => "netns",
            Self::Real => "real",
            Self::Kernels => "kernels",
        }
    }

    /// What must be installed for it, beyond what every laboratory needs.
    const fn programs(self) -> &'static [debian::Program] {
        match self {
            Self::Real => &debian::REAL,
            Self::Kernels => &debian::KERNELS,
            Self::Unit | Self::Agent | Self::Packet | Self::Lab | Self::Netns => &[],
        }
    }

    const fn needs_root(self) -> bool {
        !matches!(self, Self::Unit | Self::Agent)
    }

    /// Builds, runs and counts this layer.
    fn run(self, workspace: &Workspace, root: Option<Root>, options: &Options) -> Result<Tally> {
        if self == Self::Kernels {
            return kernels::test(workspace, root.context("no way to root")?, &options.arguments);
        }
        let mut sum = Tally::default();
        for command in self.commands(workspace, root, options)? {
            sum.add(count(command)?);
        }
        Ok(sum)
    }

    /// The commands that run this layer, built as far as they must be before `sudo` takes over.
    fn commands(self, workspace: &Workspace, root: Option<Root>, options: &Options) -> Result<Vec<Command>> {
        let selections: &[&[&str]] = match self {
            Self::Unit => &[
                &["--package=lb-common", "--all-features"],
                &["--package=lb-userspace", "--lib"],
                &["--package=lb-userspace", "--doc"],
                &["--package=xtask"],
                &["--package=lb-tests", "--doc"],
            ],
            Self::Agent => &[&["--package=lb-userspace", "--test=*"]],
            Self::Packet | Self::Lab | Self::Netns | Self::Real | Self::Kernels => {
                let root = root.context("no way to root")?;
                return self.root_commands(workspace, root, options);
            }
        };
        let command = |selection: &&[&str]| {
            let mut cargo = workspace.cargo("test");
            cargo
                .arg("--no-fail-fast")
                .args(*selection)
                .arg("--")
                .args(&options.arguments);
            cargo
        };
        Ok(selections.iter().map(command).collect())
    }

    /// Builds the tests as this user, to be run as root.
    fn root_commands(self, workspace: &Workspace, root: Root, options: &Options) -> Result<Vec<Command>> {
        let mut build = workspace.cargo("test");
        build.args(["--no-run", "--package=lb-tests", "--test", self.name()]);
        if self == Self::Lab {
            build.arg("--lib");
        }
        let executables = cargo::build_executables(build, |artifact| artifact.profile.test)?;
        // Packet tests load the program by the library; the others run the binary as it is shipped.
        let binary = match self {
            Self::Packet => None,
            _ => Some(workspace.release_xlb()?),
        };
        let python = (self == Self::Real).then(python::make_sure).transpose()?;
        let package = workspace.root.join("tests");
        let command = |executable: &PathBuf| {
            let mut variables: Vec<(&str, &Path)> = vec![("CARGO_MANIFEST_DIR", package.as_std_path())];
            variables.extend(binary.as_deref().map(|binary| ("XLB_BIN", binary)));
            variables.extend(options.long.then_some(("XLB_LONG", Path::new("1"))));
            variables.extend(python.as_deref().map(|python| ("XLB_PYTHON", python)));
            let mut command = root.command(executable, &variables);
            command.args(&options.arguments).current_dir(&package);
            command
        };
        Ok(executables.iter().map(command).collect())
    }
}

/// Runs test programs, shows what they print and counts their results.
fn count(mut command: Command) -> Result<Tally> {
    let name = command.get_program().display().to_string();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let stdout = child.stdout.take().context("a test program has no output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of {name}"))?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add(Tally::from_line(&line).unwrap_or_default());
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() && tally.failed == 0 {
        eprintln!("error: {name} ended without a result: {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tally {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        count(command).expect("sh runs")
    }

    #[test]
    fn default_is_all_that_needs_nothing_from_outside() {
        assert_eq!(chosen(&[]), LAYERS[..5]);
        assert!(!chosen(&[]).contains(&Layer::Real));
        assert!(!chosen(&[]).contains(&Layer::Kernels));
    }

    #[test]
    fn all_means_every_layer() {
        assert_eq!(chosen(&[Choice::All]), LAYERS);
    }

    #[test]
    fn named_layers_run_alone_and_once() {
        assert_eq!(
            chosen(&[Choice::Packet, Choice::Unit, Choice::Packet]),
            [Layer::Unit, Layer::Packet]
        );
    }

    #[test]
    fn results_of_several_programs_are_summed() {
        let script =
            "echo 'test result: ok. 2 passed; 0 failed; x'; echo noise; echo 'test result: ok. 3 passed; 0 failed; x'";
        assert_eq!(shell(script), Tally { passed: 5, failed: 0 });
    }

    #[test]
    fn program_that_dies_counts_as_a_failure() {
        assert_eq!(shell("exit 101"), Tally { passed: 0, failed: 1 });
        assert_eq!(shell("kill -9 $$"), Tally { passed: 0, failed: 1 });
    }

    #[test]
    fn failed_tests_are_not_counted_twice() {
        let script = "echo 'test result: FAILED. 2 passed; 4 failed; x'; exit 101";
        assert_eq!(shell(script), Tally { passed: 2, failed: 4 });
    }
}
