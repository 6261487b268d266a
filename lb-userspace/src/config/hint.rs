//! What was probably meant, where a parser can only say that it does not understand.

use super::{error::Invalid, position::Position};

/// The error for text that is not YAML, with the usual cause as its remedy. `reason` is what the parser says, `stopped` where it
/// stopped reading; the error's place is where the cause is.
pub(super) fn not_yaml(reason: &str, text: &str, stopped: Position) -> (Position, Invalid) {
    let invalid = |remedy: &str| Invalid::new(format!("not YAML: {reason}"), remedy);
    // The parser may have stopped at the value before.
    let near = text.lines().enumerate().skip(stopped.line.saturating_sub(1)).take(2);
    for (index, line) in near {
        let indentation = line.len() - line.trim_start_matches(' ').len();
        if line[indentation..].starts_with('\t') {
            let tab = Position {
                line: index + 1,
                column: indentation + 1,
            };
            return (tab, invalid("indent with spaces, YAML allows no tabs here"));
        }
    }
    let line = text.lines().nth(stopped.line.saturating_sub(1)).unwrap_or_default();
    let remedy = if line.contains("]:") && !line.contains(['"', '\'']) {
        "write IPv6 addresses in quotes, like \"[2001:db8::10]:443\""
    } else if line.contains('*') {
        "write a value with `*` in quotes, like \"203.0.113.10:*\""
    } else {
        "check the indentation, quotes and brackets here and in the line before"
    };
    (stopped, invalid(remedy))
}

/// The word among `candidates` that `word` is a misspelling of.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const SIMILAR: f64 = 0.8;
    // A word longer than this is no misspelling, and comparing takes quadratic time.
    if word.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelling_finds_its_word() {
        let words = ["weight", "address", "name"];
        assert_eq!(closest("wieght", words), Some("weight"));
        assert_eq!(closest("adress", words), Some("address"));
        assert_eq!(closest("colour", words), None);
        assert_eq!(closest(&"weight".repeat(100_000), words), None);
    }
}
