//! From text to the file's shape.
//!
//! Three steps, each of which reports all that it finds: what YAML allows and a configuration does not (duplicate keys, tags, empty
//! values ...), then YAML itself, then the shape. A value of the wrong shape is reported, taken out, and the rest decoded again,
//! so that one mistake does not hide the next.

use std::collections::HashSet;

use serde_path_to_error::Segment;
use serde_yaml::Value;

use super::{
    error::Invalid,
    file::File,
    hint,
    path::{Path, Step},
    position::{Content, Entry, Index, Node, Position, Problem},
    report::Report,
};

/// Errors of shape that are reported at once: each costs a pass over the file.
const MAX_SHAPE_ERRORS: usize = 50;

/// Decodes `text`, of which `report` has the index. `None` when there is nothing that could be validated.
pub(super) fn decode(text: &str, index: &Index, report: &mut Report<'_>) -> Option<File> {
    match index.root().filter(|root| !root.is_null()) {
        None => {
            report.error(
                &Path::root(),
                Invalid::new("the file is empty", "begin with `interfaces:` and `services:`"),
            );
            return None;
        }
        Some(root) => check_node(index, root, &Path::root(), report),
    }
    match serde_yaml::from_str(text) {
        Ok(value) => decode_shape(value, report),
        Err(error) => {
            // Duplicate keys and the like are reported already, with path and remedy.
            if !report.has_errors() {
                let position = error.location().map_or(Position::START, |location| Position {
                    line: location.line(),
                    column: location.column(),
                });
                let (position, invalid) = hint::not_yaml(&error.to_string(), text, position);
                report.problem(Problem {
                    path: Path::root(),
                    position,
                    invalid,
                });
            }
            None
        }
    }
}

/// Reports what YAML allows and a configuration does not. Recursion ends because the index limits the depth and aliases are not
/// followed: what they stand for is checked where it is written.
fn check_node(index: &Index, node: &Node, path: &Path, report: &mut Report<'_>) {
    if node.tagged {
        report.error(path, Invalid::new("YAML tags are not accepted", "remove the tag"));
    }
    if node.is_null() {
        let remedy = "write a value, or remove the key or list element";
        report.error_at_key(path, Invalid::new("has no value", remedy));
    }
    match &node.content {
        Content::Scalar { text, plain: true } if is_too_large(text) => {
            let message = format!("{text} is out of range");
            report.error(path, Invalid::new(message, "write a smaller number"));
        }
        Content::Scalar { .. } | Content::Alias(_) => {}
        Content::List(elements) => {
            for (number, element) in elements.iter().enumerate() {
                if let Some(element) = index.node(*element) {
                    check_node(index, element, &path.index(number), report);
                }
            }
        }
        Content::Map(entries) => {
            let mut seen = HashSet::new();
            for entry in entries {
                check_entry(entry, &mut seen, path, report);
                let Some(value) = index.node(entry.value) else {
                    continue;
                };
                let key = entry.key.clone().unwrap_or_default();
                check_node(index, value, &path.key(key), report);
            }
        }
    }
}

/// Whether this is an integer as YAML writes them, and larger than any number of a configuration.
fn is_too_large(text: &str) -> bool {
    let unsigned = text.trim_start_matches(['+', '-']);
    let (digits, radix) = match unsigned.get(..2) {
        Some("0x") => (&unsigned[2..], 16),
        Some("0o") => (&unsigned[2..], 8),
        Some("0b") => (&unsigned[2..], 2),
        _ => (unsigned, 10),
    };
    let integer = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    integer && u64::from_str_radix(digits, radix).is_err()
}

fn check_entry<'a>(entry: &'a Entry, seen: &mut HashSet<&'a str>, path: &Path, report: &mut Report<'_>) {
    let problem = |path: Path, invalid: Invalid| Problem {
        path,
        position: entry.position,
        invalid,
    };
    let Some(key) = entry.key.as_deref() else {
        let invalid = Invalid::new(
            "a key that is a list, a mapping or an alias",
            "write keys as plain words",
        );
        report.problem(problem(path.clone(), invalid));
        return;
    };
    let at = path.key(key.to_owned());
    if key == "<<" {
        let invalid = Invalid::new(
            "YAML merge keys are not supported",
            "write the keys out, or put what all services share under `defaults`",
        );
        report.problem(problem(at, invalid));
    } else if !key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        || ["true", "false", "null"].contains(&key.to_ascii_lowercase().as_str())
    {
        let invalid = Invalid::new(format!("{key:?} cannot be a key"), "write keys as plain words");
        report.problem(problem(at, invalid));
    } else if !seen.insert(key) {
        let invalid = Invalid::new("this key is here twice", "keep one of them");
        report.problem(problem(at, invalid));
    }
}

fn decode_shape(mut value: Value, report: &mut Report<'_>) -> Option<File> {
    for _ in 0..MAX_SHAPE_ERRORS {
        let error = match serde_path_to_error::deserialize::<_, File>(&value) {
            Ok(file) => return Some(file),
            Err(error) => error,
        };
        let path = path_of(error.path());
        report_shape(&path, &error.inner().to_string(), report);
        if !take_out(&mut value, &path) {
            return None;
        }
    }
    None
}

fn path_of(path: &serde_path_to_error::Path) -> Path {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone().into())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Says in the words of a configuration what the decoder says in those of its library.
fn report_shape(path: &Path, message: &str, report: &mut Report<'_>) {
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    if let Some(key) = found.strip_prefix("unknown field ") {
        // Every second piece between backticks is a key.
        let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let meant = hint::closest(key.trim_matches('`'), keys.iter().copied());
        let meant = meant.map_or(String::new(), |meant| format!("did you mean `{meant}`? "));
        let remedy = format!("{meant}expected one of {}", keys.join(", "));
        report.error_at_key(path, Invalid::new(format!("unknown key {key}"), remedy));
    } else {
        let found = match found.strip_prefix("invalid type: ").unwrap_or(found) {
            "map" => "a mapping",
            "sequence" => "a list",
            other => other,
        };
        let expected = if expected.is_empty() { "another value" } else { expected };
        report.error(
            path,
            Invalid::new(format!("found {found}"), format!("expected {expected}")),
        );
    }
}

/// Removes the value at `path`. A list element becomes null, so that its neighbours keep their numbers. False when there is
/// no such value.
fn take_out(root: &mut Value, path: &Path) -> bool {
    let Some((last, above)) = path.steps().split_last() else {
        return false;
    };
    let mut value = root;
    for step in above {
        let next = match step {
            Step::Key(key) => value.get_mut(key.as_ref()),
            Step::Index(index) => value.get_mut(*index),
        };
        match next {
            Some(next) => value = next,
            None => return false,
        }
    }
    match (last, value) {
        (Step::Key(key), Value::Mapping(mapping)) => mapping.remove(key.as_ref()).is_some(),
        (Step::Index(index), Value::Sequence(elements)) => match elements.get_mut(*index) {
            Some(element) if !element.is_null() => {
                *element = Value::Null;
                true
            }
            _ => false,
        },
        _ => false,
    }
}
