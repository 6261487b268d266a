//! What a person at a terminal sees.

use std::{
    collections::BTreeMap,
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    iter,
};

use super::summary::Summary;

/// Characters of the bar of a backend that gets all.
const BAR: usize = 60;

/// Writes as long as there is somebody to read; every error is one of writing to stdout.
pub(super) struct Screen {
    is_on: bool,
    has_colour: bool,
}

/// Colours, as the terminal reads them.
const GREEN: &str = "32";
const RED: &str = "1;31";
const BOLD: &str = "1";

impl Screen {
    /// A screen that shows what it is given, or nothing.
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            has_colour: io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Text as it is, a line or more.
    pub(super) fn text(&self, text: impl Display) -> io::Result<()> {
        if self.is_on {
            writeln!(io::stdout(), "{text}")?;
        }
        Ok(())
    }

    /// Output of a command, indented.
    pub(super) fn quote(&self, output: &str) -> io::Result<()> {
        output
            .lines()
            .try_for_each(|line| self.text(format_args!("        {line}").to_string().trim_end()))
    }

    /// The title of what comes next.
    pub(super) fn heading(&self, title: &str) -> io::Result<()> {
        self.text(format_args!("\n{}", self.coloured(BOLD, title)))
    }

    /// A fact, with nothing to judge.
    pub(super) fn note(&self, fact: impl Display) -> io::Result<()> {
        self.text(format_args!("        {fact}"))
    }

    /// Something that must be so, and whether it is.
    pub(super) fn claim(&self, holds: bool, claim: impl Display) -> io::Result<()> {
        let mark = if holds {
            self.coloured(GREEN, "ok    ")
        } else {
            self.coloured(RED, "FAILED")
        };
        self.text(format_args!("{mark}  {claim}"))
    }

    /// Which backend answered how often, with bars.
    pub(super) fn distribution(&self, shares: &BTreeMap<u32, usize>, backends: usize) -> io::Result<()> {
        rows(shares, backends).iter().try_for_each(|row| self.note(row))
    }

    /// How it ended.
    pub(super) fn end(&self, summary: &Summary) -> io::Result<()> {
        let result = if summary.success {
            self.coloured(
                GREEN,
                &format!("success: all of this held, in {:.1} s", summary.seconds),
            )
        } else {
            let failures = summary.failures.join("\n  ");
            self.coloured(RED, &format!("failed after {:.1} s:\n  {failures}", summary.seconds))
        };
        self.text(format_args!("\n{result}"))
    }

    fn coloured(&self, colour: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A line for every backend, also for one that answered nothing.
fn rows(shares: &BTreeMap<u32, usize>, backends: usize) -> Vec<String> {
    let all = shares.values().sum::<usize>().max(1);
    let row = |backend: u32| {
        let share = shares.get(&backend).copied().unwrap_or(0);
        let bar: String = iter::repeat_n('#', share * BAR / all).collect();
        format!("  backend {backend}  {share:5}  {bar}").trim_end().to_owned()
    };
    (1..).take(backends).map(row).collect()
}

/// Prints the summary for scripts.
pub(super) fn json(summary: &Summary) -> io::Result<()> {
    let text = serde_json::to_string_pretty(summary)?;
    writeln!(io::stdout(), "{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_the_shares_and_every_backend_has_a_row() {
        let shares = BTreeMap::from([(1, 500), (3, 1500)]);
        assert_eq!(
            rows(&shares, 3),
            [
                format!("  backend 1    500  {}", "#".repeat(15)),
                "  backend 2      0".to_owned(),
                format!("  backend 3   1500  {}", "#".repeat(45)),
            ]
        );
        assert_eq!(rows(&BTreeMap::new(), 1), ["  backend 1      0"]);
    }
}
