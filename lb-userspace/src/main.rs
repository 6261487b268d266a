//! The command `xlb`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = xlb::cli::Cli::parse();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xlb: {}", xlb::describe::describe(&error));
            ExitCode::FAILURE
        }
    }
}
