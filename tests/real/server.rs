//! Server programs in the backends' namespaces.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_tests::{
    namespace::Namespace,
    wait::{until, until_true},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where Debian has servers, which not everybody has on `PATH`.
const ADMINISTRATOR: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A running server. Ended when dropped, its log shown after a panic.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program that stays in the foreground. What it prints goes to the file `log`.
    ///
    /// # Errors
    ///
    /// When the program is not installed.
    pub(crate) fn start(namespace: &Namespace, program: &str, arguments: &[&str], log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let process = namespace
            .command(path_of(program))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {program}: cargo xtask test real installs it"))?;
        Ok(Self { process, log })
    }

    /// Waits until the server has printed this text.
    ///
    /// # Errors
    ///
    /// With its log, when it ends before or does not print it in time.
    pub(crate) fn wait_for(&mut self, text: &str) -> Result<()> {
        let said = until(&format!("{text:?} of a server"), PATIENCE, || {
            let ended = self.process.try_wait()?;
            let said = self.log().contains(text);
            Ok((said || ended.is_some()).then_some(said))
        })?;
        anyhow::ensure!(said, "the server ended without saying {text:?}:\n{}", self.log());
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end, which lets it end its own children, and waits for that.
    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.process.id().try_into()?), Signal::SIGTERM)?;
        let ended = until_true("end of a server", PATIENCE, || {
            matches!(self.process.try_wait(), Ok(Some(_)))
        });
        if ended.is_err() {
            self.process.kill()?;
            self.process.wait()?;
        }
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
        if let Err(error) = self.stop() {
            eprintln!("{} was not ended in order: {error:#}", self.log.display());
        }
    }
}

/// A server program by its full path, if it is where only administrators look.
fn path_of(program: &str) -> PathBuf {
    let candidates = ADMINISTRATOR.map(|directory| Path::new(directory).join(program));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| program.into())
}

/// Runs a client program to its end and returns what it printed.
///
/// # Errors
///
/// When it is not installed or fails, with both of its outputs.
pub(crate) fn client(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
