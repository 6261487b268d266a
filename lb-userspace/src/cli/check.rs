//! `xlb check`: validates a configuration file without touching the kernel.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use serde::Serialize;

use crate::{
    config::{self, Diagnostic},
    model::Model,
};

/// What `--json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    /// The file, as it was given.
    file: &'a str,
    /// Whether it is accepted.
    valid: bool,
    errors: &'a [Diagnostic],
    warnings: &'a [Diagnostic],
}

/// Checks the file at `path` and prints the result: on stdout one line, or with `json` an object; errors and warnings on stderr, or in
/// the object. Succeeds when the file is valid, warnings or not.
///
/// # Errors
/// When the result cannot be printed.
pub fn run(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let valid = print(path, json, &mut io::stdout().lock(), &mut io::stderr().lock())?;
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// [`run`] on any output. True when the file is valid.
fn print(path: &Path, json: bool, stdout: &mut impl Write, stderr: &mut impl Write) -> anyhow::Result<bool> {
    let file = path.display().to_string();
    let (model, errors, warnings) = match config::load(path) {
        Ok(loaded) => (Some(loaded.model), Vec::new(), loaded.warnings),
        Err(error) => (None, error.errors, error.warnings),
    };
    let valid = model.is_some();
    if json {
        let outcome = Outcome {
            file: &file,
            valid,
            errors: &errors,
            warnings: &warnings,
        };
        serde_json::to_writer_pretty(&mut *stdout, &outcome)?;
        writeln!(stdout)?;
        return Ok(valid);
    }
    for error in &errors {
        writeln!(stderr, "error: {}", error.render(&file))?;
    }
    for warning in &warnings {
        writeln!(stderr, "warning: {}", warning.render(&file))?;
    }
    if let Some(model) = model {
        writeln!(stdout, "{file}: ok, {}", summary(&model))?;
    }
    Ok(valid)
}

/// `1 service, 3 backends`.
fn summary(model: &Model) -> String {
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let backends = model.services.iter().map(|service| service.backends.len()).sum();
    format!(
        "{}, {}",
        counted(model.services.len(), "service"),
        counted(backends, "backend")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Exit, stdout and stderr for a file with this content. The file's name is replaced by `FILE`.
    fn check(content: &str, json: bool) -> (bool, String, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let valid = print(file.path(), json, &mut stdout, &mut stderr).unwrap();
        let name = file.path().display().to_string();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&name, "FILE");
        (valid, text(stdout), text(stderr))
    }

    const VALID: &str = "
interfaces: [eth0]
services:
  - name: web
    listen: 203.0.113.10:80
    backends: [10.0.0.11:8080]
";

    #[test]
    fn valid_file_is_one_line_on_stdout() {
        let (valid, stdout, stderr) = check(VALID, false);
        assert!(valid);
        assert_eq!(stdout, "FILE: ok, 1 service, 1 backend\n");
        assert_eq!(
            stderr,
            "warning: FILE:6:15: services[0].backends: there is one backend only: nothing takes over when it fails; add another\n"
        );
    }

    #[test]
    fn invalid_file_leaves_stdout_empty() {
        let (valid, stdout, stderr) = check(&VALID.replace("8080", "0"), false);
        assert!(!valid);
        assert_eq!(stdout, "");
        assert!(
            stderr.starts_with("error: FILE:6:16: services[0].backends[0]: \"10.0.0.11:0\": port \"0\" is out of range; expected 1..=65535\n"),
            "{stderr}"
        );
    }

    #[test]
    fn json_is_all_on_stdout() {
        let (valid, stdout, stderr) = check("interfaces: [eth0]\nservices: []\ncolour: red\n", true);
        assert!(!valid);
        assert_eq!(stderr, "");
        let outcome: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            outcome,
            json!({
                "file": "FILE",
                "valid": false,
                "errors": [{
                    "line": 3,
                    "column": 1,
                    "path": "colour",
                    "message": "unknown key `colour`",
                    "remedy": "expected one of interfaces, api, connections, snat, defaults, services",
                }],
                "warnings": [{
                    "line": 2,
                    "column": 11,
                    "path": "services",
                    "message": "there are no services: nothing will be balanced",
                    "remedy": "add a service under `services:`",
                }],
            })
        );
    }

    #[test]
    fn missing_file_is_an_error_without_a_line() {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let valid = print(Path::new("/nonexistent/xlb.yaml"), false, &mut stdout, &mut stderr).unwrap();
        assert!(!valid);
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(
            stderr.starts_with("error: /nonexistent/xlb.yaml: cannot read the file: No such file"),
            "{stderr}"
        );
    }
}
