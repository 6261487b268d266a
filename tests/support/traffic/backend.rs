//! Backends as processes of their own, so that they can die like real ones.

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::namespace::Namespace;

/// Port of the line protocol, TCP and UDP.
pub const PORT: u16 = 8080;
/// Port of the health endpoint.
pub const HEALTH_PORT: u16 = 8081;

/// The beginning of a command line that serves as a backend, up to the options of [`super::server::Server`].
#[derive(Clone, Debug)]
pub struct ServeCommand {
    /// The program.
    pub program: PathBuf,
    /// Its subcommand.
    pub subcommand: &'static str,
}

impl ServeCommand {
    /// `lab serve`.
    ///
    /// # Errors
    ///
    /// When the `lab` binary is missing.
    pub fn lab() -> Result<Self> {
        Ok(Self {
            program: binary()?,
            subcommand: "serve",
        })
    }
}

/// A running server in a namespace. Ended when dropped.
#[derive(Debug)]
pub struct Backend {
    namespace: Namespace,
    id: u32,
    at: Option<SocketAddr>,
    command: ServeCommand,
    process: Option<Child>,
}

impl Backend {
    /// Starts a server that answers with `id`, and waits until all its ports are open.
    ///
    /// # Errors
    ///
    /// When the `lab` binary is missing or a port is taken.
    pub fn start(namespace: &Namespace, id: u32) -> Result<Self> {
        Self::start_with(namespace, id, ServeCommand::lab()?)
    }

    /// As [`Backend::start`], at this address alone instead of port [`PORT`] of all: the VIP on a loopback, for example. The health
    /// endpoint is where it always is.
    ///
    /// # Errors
    ///
    /// As of [`Backend::start`], and when the address is not the namespace's.
    pub fn start_at(namespace: &Namespace, id: u32, at: SocketAddr) -> Result<Self> {
        Self::launched(namespace, id, Some(at), ServeCommand::lab()?)
    }

    /// As [`Backend::start`], with a given command.
    ///
    /// # Errors
    ///
    /// When the command can't be run or a port is taken.
    pub fn start_with(namespace: &Namespace, id: u32, command: ServeCommand) -> Result<Self> {
        Self::launched(namespace, id, None, command)
    }

    fn launched(namespace: &Namespace, id: u32, at: Option<SocketAddr>, command: ServeCommand) -> Result<Self> {
        let mut backend = Self {
            namespace: namespace.clone(),
            id,
            at,
            command,
            process: None,
        };
        backend.launch()?;
        Ok(backend)
    }

    /// One server for each namespace, with ids from 1.
    ///
    /// # Errors
    ///
    /// As of [`Backend::start`].
    pub fn start_all(namespaces: &[Namespace]) -> Result<Vec<Self>> {
        namespaces
            .iter()
            .zip(1..)
            .map(|(namespace, id)| Self::start(namespace, id))
            .collect()
    }

    /// Starts it again after [`Backend::kill9`].
    ///
    /// # Errors
    ///
    /// As of [`Backend::start`], and when it still runs.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "backend {} runs already", self.id);
        let ServeCommand { program, subcommand } = &self.command;
        let port = self.at.map_or(PORT, |at| at.port()).to_string();
        let mut command = self.namespace.command(program);
        command
            .args([subcommand, "--id", &self.id.to_string()])
            .args(["--tcp", &port, "--udp", &port])
            .args(["--http", &HEALTH_PORT.to_string()]);
        if let Some(at) = self.at {
            command.args(["--at", &at.ip().to_string()]);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdout = process.stdout.take().context("no stdout")?;
        self.process = Some(process);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(
            line == "ready\n",
            "backend {} did not start, see its message above",
            self.id
        );
        Ok(())
    }

    /// What it answers as.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Ends the process as a crash would: its kernel resets connections and refuses new ones. Fine if it runs no more.
    ///
    /// # Errors
    ///
    /// When it can't be ended.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Stops the process without ending it: connections are still accepted by its kernel, but nobody answers.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Makes the health endpoint answer with status 200 or 503; everything else works as before.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        self.signal(if healthy { Signal::SIGUSR2 } else { Signal::SIGUSR1 })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self
            .process
            .as_ref()
            .with_context(|| format!("backend {} does not run", self.id))?;
        kill(Pid::from_raw(i32::try_from(process.id())?), signal)
            .with_context(|| format!("cannot send {signal} to backend {}", self.id))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("backend {} was not ended: {error:#}", self.id);
        }
    }
}

/// The `lab` to use: `LAB_BIN`, else the one built next to the running test or command.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LAB_BIN") {
        return Ok(path.into());
    }
    let executable = env::current_exe()?;
    // Tests and examples are one directory below the binaries.
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("lab"))
        .find(|path| path.is_file())
        .context("no lab binary: run cargo build -p lb-tests first, or set LAB_BIN")
}
