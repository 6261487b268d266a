//! What a guest says on its serial ports, and what to make of it.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};

use crate::tally::Tally;

/// In front of what `init.sh` says itself.
const MARK: &str = "xlb-guest: ";
/// In front of what the tests report beyond passed and failed: a program's name and what the verifier counted.
const VERIFIED: &str = "verified instructions: ";
/// In front of the reason why a kernel can't run a program.
const REFUSED: &str = "refused by this kernel: ";
/// What the kernel writes when something is wrong with itself.
const ALARMS: [&str; 8] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "Kernel panic",
    "general protection fault",
    "detected stall",
    "blocked for more than",
];

/// The results of test programs, read line by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Transcript {
    /// Tests over all steps; each of `problems` counts as one that failed.
    pub(super) tally: Tally,
    /// The kernel's release.
    pub(super) kernel: String,
    /// What the verifier counted, by program.
    pub(super) instructions: BTreeMap<String, u32>,
    /// Why this kernel can't run a program, in its own words.
    pub(super) refusals: Vec<String>,
    /// What went wrong apart from tests.
    pub(super) problems: Vec<String>,
    step: Option<Step>,
    /// The kernel's state after the last step; without it the guest ended early.
    taint: Option<String>,
}

/// A test program that runs.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    name: String,
    failed_before: u64,
}

impl Transcript {
    /// For test programs that run here.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell its release.
    pub(super) fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
        Ok(Self {
            kernel: format!("{} (this machine)", release.trim()),
            ..Self::default()
        })
    }

    /// Reads one line of the guest's output.
    pub(super) fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some((_, count)) = line.split_once(VERIFIED) {
            self.instructions.extend(instruction_count(count));
        } else if let Some((_, reason)) = line.split_once(REFUSED) {
            self.refusals.push(reason.to_owned());
        } else if let Some((word, rest)) = line.strip_prefix(MARK).and_then(|line| line.split_once(' ')) {
            self.marked(word, rest);
        } else {
            self.tally.add(Tally::from_line(line).unwrap_or_default());
        }
    }

    fn marked(&mut self, word: &str, rest: &str) {
        match word {
            "kernel" => rest.clone_into(&mut self.kernel),
            "step" => self.begin(rest),
            "status" => self.end(rest),
            "taint" => self.taint = Some(rest.to_owned()),
            _ => self.problem(rest.to_owned()),
        }
    }

    fn begin(&mut self, name: &str) {
        self.step = Some(Step {
            name: name.to_owned(),
            failed_before: self.tally.failed,
        });
    }

    /// A program that ends with an error without a failed test to explain it is a failure of its own.
    fn end(&mut self, status: &str) {
        if let Some(step) = self.step.take()
            && status != "0"
            && self.tally.failed == step.failed_before
        {
            self.problem(format!("{} ended without a result, with status {status}", step.name));
        }
    }

    /// Judges the end of the guest by what it did not say, and by the kernel's own messages.
    pub(super) fn finish(&mut self, console: &str) {
        if let Some(step) = self.step.take() {
            self.problem(format!("{} did not end", step.name));
        }
        match self.taint.as_deref() {
            Some("0") => {}
            Some(taint) => self.problem(format!("the kernel is tainted: {taint}")),
            None => self.problem(format!(
                "the guest ended early; the kernel's last words:\n{}",
                tail(console)
            )),
        }
        for line in console
            .lines()
            .filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)))
        {
            self.problem(format!("the kernel says: {}", line.trim()));
        }
    }

    /// All of it in a few lines.
    pub(super) fn summary(&self, duration: Duration) -> String {
        let seconds = duration.as_secs();
        let mut text = format!("Linux {}: {}, {seconds} s", self.kernel, self.tally);
        let counts = self.instructions.iter();
        let counts = counts.map(|(program, count)| format!("{program}: {count} instructions verified"));
        let refusals = self.refusals.iter().map(|reason| format!("refused: {reason}"));
        let problems = self.problems.iter().map(|problem| format!("FAILED: {problem}"));
        for line in counts.chain(refusals).chain(problems) {
            text += &format!("\n  {line}");
        }
        text
    }

    /// Counts something as failed that no test has counted.
    pub(super) fn problem(&mut self, problem: String) {
        self.tally.failed += 1;
        self.problems.push(problem);
    }
}

/// A program and its number, as in `xlb_native 1234`.
fn instruction_count(text: &str) -> Option<(String, u32)> {
    let (program, count) = text.split_once(' ')?;
    Some((program.to_owned(), count.parse().ok()?))
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that ends well, but for `middle` in it.
    fn transcript(middle: &str, console: &str) -> Transcript {
        let mut transcript = Transcript::default();
        let text = format!("xlb-guest: kernel 6.1.0-1\n{middle}xlb-guest: taint 0\n");
        text.lines().for_each(|line| transcript.line(line));
        transcript.finish(console);
        transcript
    }

    #[test]
    fn results_of_all_steps_are_summed() {
        let transcript = transcript(
            "xlb-guest: step packet\r\ntest result: ok. 2 passed; 0 failed; x\r\nxlb-guest: status 0\r\n\
             xlb-guest: step netns\r\ntest result: FAILED. 1 passed; 1 failed; x\r\nxlb-guest: status 101\r\n",
            "",
        );
        assert_eq!(transcript.tally, Tally { passed: 3, failed: 1 });
        assert_eq!(transcript.problems, [""; 0]);
        assert_eq!(transcript.kernel, "6.1.0-1");
    }

    #[test]
    fn counts_and_refusals_are_read_amid_other_text() {
        let transcript = transcript(
            "test a ... verified instructions: xlb_native 1234\nrefused by this kernel: no such thing\n",
            "",
        );
        assert_eq!(transcript.instructions.get("xlb_native"), Some(&1234));
        assert_eq!(transcript.refusals, ["no such thing"]);
    }

    #[test]
    fn program_without_a_result_is_a_failure() {
        let killed = transcript("xlb-guest: step packet\nxlb-guest: status 139\n", "");
        assert_eq!(killed.tally, Tally { passed: 0, failed: 1 });
        assert!(killed.problems[0].contains("packet"), "{:?}", killed.problems);
    }

    #[test]
    fn guest_that_stops_early_is_a_failure_with_the_kernels_last_words() {
        let mut transcript = Transcript::default();
        transcript.line("xlb-guest: step packet");
        transcript.finish("[1.0] all is well\n[2.0] goodbye");
        assert_eq!(
            transcript.tally.failed, 2,
            "a step without an end, and a guest without one"
        );
        assert!(transcript.problems[1].contains("goodbye"));
    }

    #[test]
    fn alarm_of_the_kernel_is_a_failure() {
        for alarm in [
            "[  9.1] WARNING: CPU: 0 PID: 7 at net/core/filter.c:1 x+0x1/0x2",
            "[  9.1] BUG: kernel NULL pointer dereference, address: 0",
            "[  9.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        ] {
            assert_eq!(transcript("", alarm).tally.failed, 1, "{alarm}");
        }
        assert_eq!(transcript("", "[ 1.0] Unstable clock detected").tally.failed, 0);
    }

    #[test]
    fn taint_and_module_that_does_not_load_are_failures() {
        let mut tainted = Transcript::default();
        tainted.line("xlb-guest: taint 512");
        tainted.finish("");
        assert_eq!(tainted.tally.failed, 1);
        assert_eq!(
            transcript("xlb-guest: problem insmod veth.ko failed\n", "")
                .tally
                .failed,
            1
        );
    }
}
