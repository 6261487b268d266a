//! Scripts: commands with the output that each must have.

use std::fmt::Write as _;

/// Executes every command of a script (`$ ...`) and returns the script with the actual output behind each one. Comments and empty
/// lines stay where they are.
pub(crate) fn play(script: &str, mut execute: impl FnMut(&str) -> String) -> String {
    let mut text = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            writeln!(text, "{line}").unwrap();
            text.push_str(&execute(command));
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

/// The first line that differs, with those before it.
pub(crate) fn difference(expected: &str, actual: &str) -> String {
    let mut expected = expected.lines();
    let mut text = String::new();
    for line in actual.lines() {
        let wanted = expected.next();
        if wanted == Some(line) {
            writeln!(text, "  {line}").unwrap();
            continue;
        }
        writeln!(text, "- {}", wanted.unwrap_or("(end of the script)")).unwrap();
        writeln!(text, "+ {line}").unwrap();
        return text;
    }
    writeln!(text, "- {}", expected.next().unwrap_or_default()).unwrap();
    text
}
