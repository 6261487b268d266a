//! Which interfaces the packet path is attached to.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};

use super::{Shared, lock};
use crate::{
    api::status::Interface,
    dataplane::aya::{Attached, AyaDataplane, Device},
    interfaces,
    model::XdpMode,
};

/// Attaches to the interfaces that shall have the packet path, and replaces the programs of those that have it. On failure the
/// interfaces are as they were.
pub(super) fn extend(shared: &Shared, wanted: &[(Device, XdpMode)]) -> Result<()> {
    let mut dataplane = lock(&shared.dataplane);
    let there = dataplane.attached()?;
    let mut done: Vec<(&Device, Attached)> = Vec::with_capacity(wanted.len());
    // Those without the packet path first: if one is refused, the traffic through the others has not felt anything.
    let (present, new): (Vec<_>, Vec<_>) = wanted.iter().partition(|(device, _)| there.contains(&device.ifindex));
    for (device, mode) in new.into_iter().chain(present) {
        match dataplane.attach(device, *mode) {
            Ok(attached) => {
                let verb = if attached.before == Some(attached.mode) {
                    "replaced in place"
                } else {
                    "attached"
                };
                info!(interface = device.name, mode = ?attached.mode, "packet path {verb}");
                done.push((device, attached));
            }
            Err(error) => {
                undo(&mut dataplane, &done);
                return Err(error.into());
            }
        }
    }
    for (device, attached) in &done {
        prepare_reinjection(shared, &mut dataplane, device, attached.mode);
    }
    let mut interfaces: Vec<Interface> = done
        .iter()
        .map(|(device, attached)| Interface {
            name: device.name.clone(),
            ifindex: device.ifindex,
            xdp_mode: attached.mode,
        })
        .collect();
    interfaces.sort_by_key(|interface| {
        wanted
            .iter()
            .position(|(device, _)| device.ifindex == interface.ifindex)
    });
    let mut observed = lock(&shared.observed);
    observed.interfaces = interfaces;
    observed.devices = wanted.to_vec();
    Ok(())
}

/// Makes ready for fragments that come before the first one of their packet. Without, they are lost, and everything else works.
fn prepare_reinjection(shared: &Shared, dataplane: &mut AyaDataplane, device: &Device, mode: XdpMode) {
    match dataplane.reinjection(device, mode) {
        Ok(reinjection) => {
            lock(&shared.reinjections).insert(device.ifindex, Arc::new(reinjection));
        }
        Err(error) => {
            warn!(interface = device.name, %error, "fragments that come before the first one of their packet are lost here");
        }
    }
}

/// Takes back what was attached.
fn undo(dataplane: &mut AyaDataplane, done: &[(&Device, Attached)]) {
    for (device, attached) in done {
        let undone = match attached.before {
            None => dataplane.detach(device.ifindex, Some(device)),
            Some(before) if before != attached.mode => dataplane.attach(device, before).map(drop),
            Some(_) => Ok(()),
        };
        if let Err(error) = undone {
            error!(interface = device.name, %error, "cannot take back what was attached");
        }
    }
}

/// Takes the packet path off the interfaces that shall not have it any more.
pub(super) async fn prune(shared: &Shared, wanted: &[(Device, XdpMode)]) -> Result<()> {
    let present = interfaces::list().await.context("cannot list the interfaces")?;
    let dataplane = lock(&shared.dataplane);
    for ifindex in dataplane.attached()? {
        if wanted.iter().any(|(device, _)| device.ifindex == ifindex) {
            continue;
        }
        let device = present.iter().find(|device| device.ifindex == ifindex);
        dataplane.detach(ifindex, device)?;
        lock(&shared.reinjections).remove(&ifindex);
        let name = device.map_or("gone", |device| &device.name);
        info!(interface = name, ifindex, "packet path detached");
    }
    Ok(())
}
