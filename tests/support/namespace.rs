//! Network namespaces: entering them, and starting programs in them.
//!
//! They have names in `/run/netns`, so that a person can look inside with `nsenter --net=/run/netns/NAME`. Never with
//! `ip netns exec`: it mounts a new `/sys`, which hides the BPF file system.

use std::{
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    panic,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

use crate::names::Mac;

/// Where named network namespaces are.
pub const NAMESPACES: &str = "/run/netns";

/// A handle to a network namespace. It does not remove anything when dropped; [`crate::topology::Lab`] does.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Opens the namespace with this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NAMESPACES).join(name);
        let file = File::open(&path).with_context(|| format!("cannot open network namespace {}", path.display()))?;
        Ok(Self {
            name: name.into(),
            file: Arc::new(file),
        })
    }

    /// Its name in `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace, for good.
    fn enter(&self) -> nix::Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    ///
    /// When the namespace can't be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            let result = thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
            result.with_context(|| format!("cannot enter network namespace {}", self.name))
        })
    }

    /// Starts `work` inside the namespace, on a thread of its own. The thread's result is an error when the namespace could not be
    /// entered.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<Result<T>> {
        let namespace = self.clone();
        thread::spawn(move || {
            let entered = namespace.enter();
            entered.with_context(|| format!("cannot enter network namespace {}", namespace.name))?;
            Ok(work())
        })
    }

    /// A program that will run inside the namespace. Mounts stay as they are.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = self.clone();
        let mut command = Command::new(program);
        let enter = move || namespace.enter().map_err(Into::into);
        // SAFETY: between fork and exec `enter` makes one system call and neither allocates nor takes a lock.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` inside the namespace with arguments separated by spaces, and returns what it prints.
    ///
    /// # Errors
    ///
    /// When `ip` fails, with its message.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = self.command("ip");
        output(command.args(arguments.split_whitespace()))
    }

    /// Index of a network interface inside the namespace.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn interface_index(&self, interface: &str) -> Result<u32> {
        let index = self.run(|| nix::net::if_::if_nametoindex(interface))?;
        index.with_context(|| format!("no interface {interface} in network namespace {}", self.name))
    }

    /// MAC address of a network interface inside the namespace.
    ///
    /// # Errors
    ///
    /// When there is no such interface, or it has none.
    pub fn mac(&self, interface: &str) -> Result<Mac> {
        let link = self.ip(&format!("-oneline link show dev {interface}"))?;
        let text = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        let bytes = text.map(|text| text.split(':').map(|byte| u8::from_str_radix(byte, 16)));
        let bytes: Option<Vec<u8>> = bytes.and_then(|bytes| bytes.collect::<Result<_, _>>().ok());
        bytes
            .and_then(|bytes| Mac::try_from(bytes).ok())
            .with_context(|| format!("no MAC address in {link}"))
    }

    /// Sets a kernel parameter inside the namespace: a path below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the value or has no such parameter.
    pub fn sysctl(&self, parameter: &str, value: &str) -> Result<()> {
        // The files show the namespace of the thread that opens them.
        let path = Path::new("/proc/sys/net").join(parameter);
        let written = self.run(|| std::fs::write(&path, value))?;
        written.with_context(|| format!("cannot set {} to {value} in {}", path.display(), self.name))
    }
}

/// Runs lines of `ip` commands in one process, in the given namespace or this one.
///
/// # Errors
///
/// With the message of `ip`, which names the line.
pub(crate) fn ip_batch(namespace: Option<&Namespace>, lines: &[String]) -> Result<()> {
    let mut command = namespace.map_or_else(|| Command::new("ip"), |namespace| namespace.command("ip"));
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip: install iproute2")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all((lines.join("\n") + "\n").as_bytes())?;
    }
    succeeded(&child.wait_with_output()?).with_context(|| format!("ip -batch:\n{}", lines.join("\n")))
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    succeeded(&output).with_context(|| format!("{command:?}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeeded(output: &Output) -> Result<()> {
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, message.trim());
    Ok(())
}
