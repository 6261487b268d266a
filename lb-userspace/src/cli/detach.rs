//! `xlb detach`.

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    dataplane::{aya, pins::Pins},
    interfaces,
};

pub(super) fn run(directory: &Path) -> Result<ExitCode> {
    let Some(pins) = Pins::open(directory)? else {
        println!("nothing is attached: {} does not exist", directory.display());
        return Ok(ExitCode::SUCCESS);
    };
    let _lock = pins.lock()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let devices = runtime
        .block_on(interfaces::list())
        .context("cannot list the interfaces")?;
    let links = aya::remove_all(pins, &devices)?;
    let names: Vec<&str> = devices
        .iter()
        .filter(|device| links.contains(&device.ifindex))
        .map(|device| device.name.as_str())
        .collect();
    if names.is_empty() {
        println!("removed {}; no interface was attached", directory.display());
    } else {
        println!("detached from {}, removed {}", names.join(", "), directory.display());
    }
    Ok(ExitCode::SUCCESS)
}
