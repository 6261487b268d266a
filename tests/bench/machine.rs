//! What a figure depends on beside the program: facts of the machine.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine, in words of the kernel.
#[derive(Serialize)]
pub(crate) struct Machine {
    /// Kernel release.
    kernel: String,
    /// Processor model.
    processor: String,
    /// Number of the processor that the benchmark ran on.
    cpu: usize,
    /// Frequency governor; `None` where the machine has none to choose, as in most virtual machines.
    governor: Option<String>,
    /// `net.core.bpf_jit_enable` and `bpf_jit_harden`.
    jit: String,
    /// Hardware vulnerabilities that concern this processor, and what the kernel does about each.
    vulnerabilities: Vec<String>,
    /// Load averages when the benchmark began and when it ended.
    load: [String; 2],
}

/// The load averages now.
///
/// # Errors
///
/// When they can't be read.
pub(crate) fn load() -> Result<String> {
    let text = read("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

impl Machine {
    /// Asks the kernel. `load_before` are the load averages from before the benchmark.
    ///
    /// # Errors
    ///
    /// When something that every Linux has can't be read.
    pub(crate) fn describe(cpu: usize, load_before: String) -> Result<Self> {
        let processors = read("/proc/cpuinfo")?;
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        let jit = |name: &str| read(&format!("/proc/sys/net/core/bpf_jit_{name}")).unwrap_or_else(|_| "?".to_owned());
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?,
            processor: model.to_owned(),
            cpu,
            governor: read(&format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor")).ok(),
            jit: format!("enable {}, harden {}", jit("enable"), jit("harden")),
            vulnerabilities: vulnerabilities()?,
            load: [load_before, load()?],
        })
    }
}

/// `name: what the kernel does`, without those that the processor does not have.
fn vulnerabilities() -> Result<Vec<String>> {
    let directory = Path::new("/sys/devices/system/cpu/vulnerabilities");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).context("cannot list the processor's vulnerabilities")? {
        let entry = entry?;
        let state = fs::read_to_string(entry.path())?;
        if state.trim() != "Not affected" {
            found.push(format!("{}: {}", entry.file_name().display(), state.trim()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let governor = self.governor.as_deref().unwrap_or("none");
        writeln!(f, "{:<13}{}", "kernel", self.kernel)?;
        writeln!(
            f,
            "{:<13}{}, on cpu {}, governor {governor}",
            "processor", self.processor, self.cpu
        )?;
        writeln!(f, "{:<13}{}", "bpf jit", self.jit)?;
        for (index, line) in self.vulnerabilities.iter().enumerate() {
            writeln!(f, "{:<13}{line}", if index == 0 { "mitigations" } else { "" })?;
        }
        let [before, after] = &self.load;
        writeln!(f, "{:<13}{before} before, {after} after", "load")
    }
}
