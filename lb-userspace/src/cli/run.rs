//! `xlb run`.

use std::{io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::agent;

pub(super) fn run(config: &Path, pins: &Path) -> Result<ExitCode> {
    let filter = EnvFilter::try_from_env("XLB_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(agent::run(config, pins))?;
    Ok(ExitCode::SUCCESS)
}
