//! The configuration file, `/etc/xlb/xlb.yaml`: from text to a [`Model`] that is valid by construction.
//!
//! A file with an error is rejected whole, and all its errors are reported at once, each with line, column, path of the key,
//! value and remedy. Keys that are part of the schema and not built yet are refused, never ignored.
//!
//! The way of a file: `position` (an index of where everything stands) -> `decode` (text to `file`, the shape) -> `validate` (shape to
//! model, by `values` and `address`). `report` collects what is found on the way.

mod address;
mod decode;
mod error;
mod file;
mod hint;
mod path;
mod position;
mod report;
mod shape;
mod validate;
mod values;

use std::{fs, io::Read as _};

pub use self::error::{ConfigError, Diagnostic};
use self::{error::Invalid, position::Index, report::Report};
use crate::model::Model;

/// Bytes of a file that are read at most: the largest possible configuration is about half of it.
const MAX_FILE: u64 = 32 << 20;

/// A configuration file that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub model: Model,
    /// What should be looked at, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// When it cannot be read, or with all that is wrong in it.
pub fn load(path: &std::path::Path) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let invalid = Invalid::new(
            format!("cannot read the file: {error}"),
            "check its path and permissions",
        );
        return Err(reject_whole(&name, invalid));
    }
    parse(&name, &bytes)
}

/// Checks the content of a configuration file. `name` is what errors call the file.
///
/// # Errors
/// With all that is wrong in it.
pub fn parse(name: &str, content: impl AsRef<[u8]>) -> Result<Loaded, ConfigError> {
    let content = content.as_ref();
    if u64::try_from(content.len()).is_ok_and(|length| length > MAX_FILE) {
        let invalid = Invalid::new("the file is too large", format!("expected at most {MAX_FILE} bytes"));
        return Err(reject_whole(name, invalid));
    }
    let text = match std::str::from_utf8(content) {
        Ok(text) => text,
        Err(error) => return Err(reject_encoding(name, content, error.valid_up_to())),
    };
    // Editors of another system put a byte order mark here; it means nothing in UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let index = match Index::build(text) {
        Ok(index) => index,
        Err(problem) => {
            let error = report::diagnostic(&problem.path, problem.position, problem.invalid);
            return Err(reject(name, vec![error], Vec::new()));
        }
    };
    let mut report = Report::new(&index);
    let model = decode::decode(text, &index, &mut report).map(|file| validate::validate(&file, &mut report));
    let (errors, warnings) = report.finish();
    match model {
        Some(model) if errors.is_empty() => Ok(Loaded { model, warnings }),
        _ => Err(reject(name, errors, warnings)),
    }
}

fn reject(name: &str, errors: Vec<Diagnostic>, warnings: Vec<Diagnostic>) -> ConfigError {
    ConfigError {
        file: name.to_owned(),
        errors,
        warnings,
    }
}

fn reject_whole(name: &str, Invalid { message, remedy }: Invalid) -> ConfigError {
    let error = Diagnostic {
        line: 0,
        column: 0,
        path: String::new(),
        message,
        remedy,
    };
    reject(name, vec![error], Vec::new())
}

/// For content that is no UTF-8 from byte `valid_up_to` on.
fn reject_encoding(name: &str, content: &[u8], valid_up_to: usize) -> ConfigError {
    let valid = String::from_utf8_lossy(content.get(..valid_up_to).unwrap_or_default());
    let byte = content.get(valid_up_to).copied().unwrap_or_default();
    let error = Diagnostic {
        line: valid.matches('\n').count() + 1,
        column: valid.rsplit('\n').next().unwrap_or_default().chars().count() + 1,
        path: String::new(),
        message: format!("byte {byte:#04x} is not UTF-8"),
        remedy: "save the file as UTF-8".to_owned(),
    };
    reject(name, vec![error], Vec::new())
}
