//! Every command that a developer of xlb needs: `cargo xtask help`.
//!
//! One module per subcommand; what they need of the machine is in [`linker`], [`tool`], [`privilege`] and [`debian`]. Each subcommand first makes sure of
//! what it needs, and says in one line what is missing and how to get it when it cannot.

mod bench;
mod bpf;
mod build;
mod cargo;
mod check;
mod debian;
mod demo;
mod fuzz;
mod kernels;
mod linker;
mod privilege;
mod python;
mod run;
mod setup;
mod tally;
mod test;
mod tool;
mod xlb;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Builds, checks, tests and runs xlb.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
enum Command {
    /// Installs what a build needs: rust-src, and a bpf-linker for the LLVM of the compiler
    Setup,
    /// Builds `xlb` with the BPF program inside
    Build(build::Options),
    /// Formatting, lints for host and BPF, dependencies, documentation, file sizes
    Check,
    /// Runs the tests; the last line is `N passed, N failed`
    Test(test::Options),
    /// Shows xlb at work in network namespaces: `xlb demo`, as root
    Demo(demo::Options),
    /// Measures the data plane in nanoseconds per packet, as root
    Bench(bench::Options),
    /// Looks for inputs that break the configuration's parser or the packet logic
    Fuzz(fuzz::Options),
    /// Runs the agent: `xlb run`, as root
    Run(run::Options),
}

fn main() -> ExitCode {
    match dispatch(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::run()?,
        Command::Build(options) => build::run(&options)?,
        Command::Check => check::run()?,
        Command::Test(options) => return test::run(&options),
        Command::Demo(options) => demo::run(&options)?,
        Command::Bench(options) => bench::run(&options)?,
        Command::Fuzz(options) => fuzz::run(&options)?,
        Command::Run(options) => run::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
