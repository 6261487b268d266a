//! A virtual machine that boots a kernel, runs test programs and switches itself off.
//!
//! QEMU emulates the processor: slower than real, but the same everywhere, inside other virtual machines too. The guest's only file
//! system is in its memory, and it has no network.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, transcript::Transcript};

/// The guest's first process.
const INIT: &str = include_str!("init.sh");

/// What the kernel is told: messages to the first port; a panic ends the machine; only what is worse than a notice is printed; and
/// patience, because the host may have better things to do than to emulate.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=5 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120";

/// A program that runs in the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Its name below `/bin`.
    pub(super) program: String,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
}

/// Everything that a guest is made of.
pub(super) struct Guest<'a> {
    /// The kernel, as its package holds it.
    pub(super) image: &'a Path,
    /// Modules to load, in this order.
    pub(super) modules: &'a [PathBuf],
    /// Executables, each with its name below `/bin`.
    pub(super) programs: &'a [(String, PathBuf)],
    /// Shared libraries that they need.
    pub(super) libraries: &'a [Library],
    /// What to run.
    pub(super) steps: &'a [Step],
}

/// A shared library and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Library {
    /// Without a leading slash.
    pub(super) place: String,
    /// On this machine.
    pub(super) file: PathBuf,
}

impl Guest<'_> {
    /// Boots it, shows what it prints, and returns its results. Files that tell more stay in `directory`.
    ///
    /// # Errors
    ///
    /// When it can't be built or started; what happens in it is in the transcript.
    pub(super) fn run(&self, directory: &Path, limit: Duration) -> Result<Transcript> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let archive = directory.join("initramfs.cpio");
        self.write_archive(&archive)?;
        let console = directory.join("console.log");
        let mut machine = self.machine(&archive, &console);
        let mut transcript = Transcript::default();
        if !follow(&mut machine, &mut transcript, limit)? {
            transcript.problem(format!(
                "the guest did not end within {} s and was ended",
                limit.as_secs()
            ));
        }
        transcript.finish(&String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()));
        Ok(transcript)
    }

    fn machine(&self, archive: &Path, console: &Path) -> Command {
        let mut machine = Command::new("qemu-system-x86_64");
        machine
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", COMMAND_LINE, "-serial"])
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null());
        machine
    }

    fn write_archive(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        archive.file("init", INIT.as_bytes())?;
        archive.file("steps", script(self.steps).as_bytes())?;
        let mut order = String::new();
        for module in self.modules {
            let name = module.file_name().context("a module has a name")?.to_string_lossy();
            archive.copy(&format!("modules/{name}"), module)?;
            order += &format!("/modules/{name}\n");
        }
        archive.file("modules/order", order.as_bytes())?;
        for (name, file) in self.programs {
            archive.copy(&format!("bin/{name}"), file)?;
        }
        for Library { place, file } in self.libraries {
            archive.copy(place, file)?;
        }
        archive.finish()?;
        Ok(())
    }
}

/// Runs a test program on this machine, read as a guest is.
///
/// # Errors
///
/// When it can't be run.
pub(super) fn here(tests: &mut Command, limit: Duration) -> Result<Transcript> {
    let mut transcript = Transcript::of_this_machine()?;
    if !follow(tests, &mut transcript, limit)? {
        transcript.problem(format!("no end within {} s", limit.as_secs()));
    }
    Ok(transcript)
}

/// The steps as lines for `init.sh`.
fn script(steps: &[Step]) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let line = |Step { program, arguments }: &Step| {
        let words: Vec<_> = [program, program]
            .into_iter()
            .chain(arguments)
            .map(|word| quoted(word))
            .collect();
        format!("step {}\n", words.join(" "))
    };
    steps.iter().map(line).collect()
}

/// Runs a machine, prints what it says and reads it. `false` when it took longer than `limit` and was ended.
fn follow(machine: &mut Command, transcript: &mut Transcript, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    let mut machine = machine
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let lines = lines(machine.stdout.take().context("a machine without output")?);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                transcript.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end(&mut machine)?;
                return Ok(false);
            }
        }
    }
    end(&mut machine)?;
    Ok(true)
}

/// A machine that has closed its output has ended, or is of no use any more.
fn end(machine: &mut Child) -> Result<()> {
    machine.kill().context("cannot end qemu")?;
    machine.wait().context("cannot wait for qemu")?;
    Ok(())
}

/// Reads lines in the background.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (bool, Transcript) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut transcript = Transcript::default();
        let ended = follow(&mut command, &mut transcript, limit).expect("sh runs");
        (ended, transcript)
    }

    #[test]
    fn arguments_reach_the_guest_as_they_are() {
        let step = Step {
            program: "packet".to_owned(),
            arguments: vec!["--skip".to_owned(), "it's".to_owned()],
        };
        assert_eq!(script(&[step]), "step 'packet' 'packet' '--skip' 'it'\\''s'\n");
    }

    #[test]
    fn output_is_read_to_its_end() {
        let (ended, transcript) = shell("echo 'xlb-guest: kernel 6.1'", Duration::from_secs(60));
        assert!(ended);
        assert_eq!(transcript.kernel, "6.1");
    }

    #[test]
    fn machine_that_hangs_is_ended() {
        // `exec`, so that no child holds the output open.
        let (ended, _) = shell("exec sleep 1000", Duration::from_millis(50));
        assert!(!ended);
    }
}
