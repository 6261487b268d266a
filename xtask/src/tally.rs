//! Counting tests over several test programs.

use std::fmt;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed; a test program that ended without a result counts as one.
    pub(crate) failed: u64,
}

impl Tally {
    /// Reads the closing line of a test program: `test result: ok. 5 passed; 0 failed; 1 ignored; ...`. `None` for any other.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            counts
                .split("; ")
                .find_map(|part| part.strip_suffix(word)?.trim_end().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
        })
    }

    /// Adds another tally.
    pub(crate) const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_line_of_a_test_program_is_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.31s";
        assert_eq!(Tally::from_line(line), Some(Tally { passed: 12, failed: 0 }));
        let line =
            "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s\n";
        assert_eq!(Tally::from_line(line), Some(Tally { passed: 7, failed: 2 }));
    }

    #[test]
    fn other_lines_are_no_result() {
        for line in [
            "",
            "running 3 tests",
            "test tally::tests::x ... ok",
            "test result: ",
            "test result: ok. none",
        ] {
            assert_eq!(Tally::from_line(line), None, "{line}");
        }
    }

    #[test]
    fn tallies_add_up_and_print_plainly() {
        let mut sum = Tally { passed: 1, failed: 0 };
        sum.add(Tally { passed: 10, failed: 2 });
        assert_eq!(sum.to_string(), "11 passed, 2 failed");
    }
}
