//! The command `xlb` in the gateway's namespace.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    namespace::{Namespace, output},
    topology::Lab,
    wait::until,
};

/// How long the agent may take to start or to stop. It takes part of a second, but many of them on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent with a configuration, pins and a socket of its own. Dropped, it is ended and its data plane detached.
#[derive(Debug)]
pub struct Gateway {
    namespace: Namespace,
    binary: PathBuf,
    directory: PathBuf,
    pins: PathBuf,
    agent: Option<Child>,
}

impl Gateway {
    /// Starts the agent with this configuration and waits until it answers.
    ///
    /// The laboratory chooses the socket: a configuration without `api:` gets one, in another `SOCKET` stands for the path.
    ///
    /// # Errors
    ///
    /// When there is no binary, or the agent ends or does not answer in time, with its log.
    pub fn start(lab: &Lab, configuration: &str) -> Result<Self> {
        Self::start_binary(lab, binary()?, configuration)
    }

    /// As [`Gateway::start`], with a given `xlb`: that of an earlier release, for example.
    ///
    /// # Errors
    ///
    /// As of [`Gateway::start`].
    pub fn start_binary(lab: &Lab, binary: PathBuf, configuration: &str) -> Result<Self> {
        let mut gateway = Self {
            namespace: lab.gateway.clone(),
            binary,
            directory: lab.instance().directory()?,
            pins: lab.pins(),
            agent: None,
        };
        gateway.configure(configuration)?;
        gateway.launch()?;
        Ok(gateway)
    }

    /// Starts the agent again, after [`Gateway::kill9`] or [`Gateway::terminate`], and waits until it answers.
    ///
    /// # Errors
    ///
    /// As of [`Gateway::start`], and when it still runs.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let agent = self
            .command(["run", "-c"])
            .arg(self.configuration_path())
            .arg("--pins")
            .arg(&self.pins)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        self.agent = Some(agent);
        self.wait_ready()
    }

    /// Replaces the configuration file. The agent learns of it by [`Gateway::reload`].
    ///
    /// # Errors
    ///
    /// When the file can't be written.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        let socket = self.socket().display().to_string();
        let mut text = configuration.replace("SOCKET", &socket);
        if !text.lines().any(|line| line.starts_with("api:")) {
            text = format!("api:\n  socket: {socket}\n{text}");
        }
        fs::write(self.configuration_path(), text).context("cannot write the configuration")
    }

    /// Waits until the agent answers on its socket.
    ///
    /// # Errors
    ///
    /// With the log, as soon as the agent ends, or when it does not answer in time.
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let ready = until("an answer of the agent", PATIENCE, || {
            ended = match &mut self.agent {
                Some(agent) => agent.try_wait()?,
                None => bail!("the agent was not started"),
            };
            match ended {
                Some(_) => Ok(Some(())),
                None => self.status().map(|_| Some(())),
            }
        });
        match ended {
            Some(status) => {
                self.agent = None;
                bail!("the agent ended with {status}\n{}", self.log())
            }
            None => ready.with_context(|| format!("log of the agent:\n{}", self.log())),
        }
    }

    /// What `xlb status --json` prints.
    ///
    /// # Errors
    ///
    /// When the command fails or prints no JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let text = output(self.command(["status", "--json", "--socket"]).arg(self.socket()))?;
        serde_json::from_str(&text).with_context(|| format!("xlb status --json printed {text}"))
    }

    /// The backends of all services, as [`Gateway::status`] shows them.
    ///
    /// # Errors
    ///
    /// As of [`Gateway::status`].
    pub fn backends(&self) -> Result<Vec<serde_json::Value>> {
        let status = self.status()?;
        let services = status["services"].as_array().context("the status lists no services")?;
        let backends = services.iter().filter_map(|service| service["backends"].as_array());
        Ok(backends.flatten().cloned().collect())
    }

    /// Waits until exactly this many backends take new connections.
    ///
    /// # Errors
    ///
    /// When it does not come to that in time, with what the backends are instead.
    pub fn wait_backends_up(&self, count: usize) -> Result<()> {
        until(&format!("{count} backends that take connections"), PATIENCE, || {
            let backends = self.backends()?;
            let up = backends
                .iter()
                .filter(|backend| backend["takes_connections"] == true)
                .count();
            ensure!(up == count, "{up} do: {backends:?}");
            Ok(Some(()))
        })
    }

    /// Asks for a reload (SIGHUP). Its effect shows in [`Gateway::status`] and in the log.
    ///
    /// # Errors
    ///
    /// When the agent does not run.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// Kills the agent as a crash would; the data plane stays.
    ///
    /// # Errors
    ///
    /// When the agent does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let status = self.wait_end()?;
        ensure!(
            status.signal() == Some(libc::SIGKILL),
            "the agent ended by itself with {status}\n{}",
            self.log()
        );
        Ok(())
    }

    /// Asks the agent to stop (SIGTERM) and waits for it; the data plane stays.
    ///
    /// # Errors
    ///
    /// When the agent does not run or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end()
    }

    /// What the agent has written to stdout and stderr, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Process id of the agent, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.agent.as_ref().map(Child::id)
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("xlb.sock")
    }

    /// Its pin directory.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// An `xlb` command in the gateway's namespace.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = self.namespace.command(&self.binary);
        command.args(arguments);
        command
    }

    fn configuration_path(&self) -> PathBuf {
        self.directory.join("xlb.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("xlb.log")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let agent = self.process().context("the agent does not run")?;
        kill(Pid::from_raw(i32::try_from(agent)?), signal).with_context(|| format!("cannot send {signal} to the agent"))
    }

    fn wait_end(&mut self) -> Result<ExitStatus> {
        let agent = self.agent.as_mut().context("the agent does not run")?;
        let status = until("end of the agent", PATIENCE, || Ok(agent.try_wait()?))?;
        self.agent = None;
        Ok(status)
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            // Fine if it has ended already: Ctrl-C at a terminal reaches the agent too.
            agent.kill()?;
            agent.wait()?;
        }
        output(self.command(["detach", "--pins"]).arg(&self.pins))?;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the agent:\n{}", self.log());
        }
        if let Err(error) = self.stop() {
            eprintln!("the gateway is not wholly stopped, the laboratory removes the rest: {error:#}");
        }
    }
}

/// The `xlb` to test: `XLB_BIN`, else the one of this build, else the other profile's.
///
/// # Errors
///
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("XLB_BIN") {
        return Ok(path.into());
    }
    let executable = env::current_exe()?;
    let profile = executable
        .ancestors()
        .find(|path| path.ends_with("debug") || path.ends_with("release"));
    let profile = profile.context("set XLB_BIN to the xlb to test")?;
    [
        profile.join("xlb"),
        profile.with_file_name("debug/xlb"),
        profile.with_file_name("release/xlb"),
    ]
    .into_iter()
    .find(|path| path.exists())
    .with_context(|| format!("no xlb in {}: run cargo build first, or set XLB_BIN", profile.display()))
}
