//! What can be said about a configuration file, and where.

use std::fmt;

/// One thing to say about a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// Path of the key, like `services[2].backends[0].weight`; empty for the top of the file.
    pub path: String,
    /// What is wrong, with the value.
    pub message: String,
    /// What is accepted, or what to do.
    pub remedy: String,
}

impl Diagnostic {
    /// Renders it for a terminal, as compilers do: `xlb.yaml:12:15: path: message; remedy`.
    pub fn render<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        Rendered { diagnostic: self, file }
    }
}

/// A [`Diagnostic`] with the name of its file.
struct Rendered<'a> {
    diagnostic: &'a Diagnostic,
    file: &'a str,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            line,
            column,
            path,
            message,
            remedy,
        } = self.diagnostic;
        f.write_str(self.file)?;
        if *line > 0 {
            write!(f, ":{line}:{column}")?;
        }
        if !path.is_empty() {
            write!(f, ": {path}")?;
        }
        write!(f, ": {message}; {remedy}")
    }
}

/// A configuration file that is rejected. Its `Display` is one line per error, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// What must be changed; at least one.
    pub errors: Vec<Diagnostic>,
    /// What should be looked at besides.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", error.render(&self.file))?;
        }
        Ok(())
    }
}

/// What is wrong with a value, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// What is wrong, with the value.
    pub(super) message: String,
    /// What is accepted, or what to do.
    pub(super) remedy: String,
}

impl Invalid {
    /// `message; remedy`.
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_like_a_compiler_error() {
        let mut diagnostic = Diagnostic {
            line: 12,
            column: 15,
            path: "services[0].backends[1].weight".to_owned(),
            message: "70000 is out of range".to_owned(),
            remedy: "expected 0..=65535".to_owned(),
        };
        assert_eq!(
            diagnostic.render("xlb.yaml").to_string(),
            "xlb.yaml:12:15: services[0].backends[1].weight: 70000 is out of range; expected 0..=65535"
        );
        diagnostic.line = 0;
        diagnostic.path.clear();
        assert_eq!(
            diagnostic.render("xlb.yaml").to_string(),
            "xlb.yaml: 70000 is out of range; expected 0..=65535"
        );
    }
}
