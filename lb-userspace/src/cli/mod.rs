//! The command line. Results go to stdout, everything else to stderr.

#![forbid(unsafe_code)]

pub mod check;
mod detach;
mod run;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use lb_tests::traffic::server::Server;

use crate::{dataplane::pins::DEFAULT_DIRECTORY, demo};

/// Layer-4 TCP/UDP NAT load balancer in XDP.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  sudo xlb check -c /etc/xlb/xlb.yaml\n  sudo xlb run -c /etc/xlb/xlb.yaml\n  sudo xlb status"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent in the foreground.
    ///
    /// Loads the packet path, fills its maps from the file, probes the backends. SIGHUP reads the file again: a file with an
    /// error changes nothing. SIGTERM and SIGINT stop the agent and leave the data plane forwarding; `xlb detach` removes it.
    Run(Run),
    /// Validate a file without touching the kernel.
    Check(Check),
    /// Show the agent, its interfaces, services and backends.
    Status(Status),
    /// Remove the data plane: links, programs, pins, nothing else. Forwarding ends, and with it every connection.
    ///
    /// Stop the agent first: it holds the pins while it runs.
    Detach(Detach),
    /// Show it all at work: clients, balancer and backends in network namespaces, with real traffic.
    ///
    /// Kills a backend and brings it back, checks what must hold meanwhile, and removes all it made. Needs root, changes nothing
    /// outside of its own namespaces, and takes some seconds.
    Demo(demo::Options),
    /// Serve as a backend of the demo.
    #[command(name = demo::BACKEND_COMMAND, hide = true)]
    DemoBackend(Server),
}

#[derive(Args)]
struct Config {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/xlb/xlb.yaml")]
    config: PathBuf,
}

#[derive(Args)]
struct Pins {
    /// Directory on bpffs that keeps the data plane while no agent runs.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY, hide_short_help = true)]
    pins: PathBuf,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    pins: Pins,
}

#[derive(Args)]
struct Check {
    #[command(flatten)]
    config: Config,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Status {
    /// Socket of the agent.
    #[arg(long, value_name = "PATH", default_value = "/run/xlb/xlb.sock")]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Detach {
    #[command(flatten)]
    pins: Pins,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// One line on what went wrong and what to do, for stderr.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(Run { config, pins }) => run::run(&config.config, &pins.pins),
            Command::Check(Check { config, json }) => check::run(&config.config, json),
            Command::Status(Status { socket, json }) => status::run(&socket, json),
            Command::Detach(Detach { pins }) => detach::run(&pins.pins),
            Command::Demo(options) => demo::run(options),
            Command::DemoBackend(server) => server.serve().map(|()| ExitCode::SUCCESS),
        }
    }
}
