//! Which interfaces the packet path is attached to.

use anyhow::Result;
use tracing::info;

use super::{Shared, lock};
use crate::{api::status::Interface, dataplane::aya::Device, model::XdpMode};

/// Attaches to the interfaces that shall have the packet path, then takes it off those that shall not.
pub(super) fn apply(shared: &Shared, wanted: &[(Device, XdpMode)]) -> Result<()> {
    let mut dataplane = lock(&shared.dataplane);
    let before = std::mem::take(&mut lock(&shared.observed).interfaces);
    let mut interfaces = Vec::with_capacity(wanted.len());
    for (device, mode) in wanted {
        let attached = dataplane.attach(device, *mode)?;
        let verb = if attached.replaced {
            "replaced in place"
        } else {
            "attached"
        };
        info!(interface = device.name, mode = ?attached.mode, "packet path {verb}");
        interfaces.push(Interface {
            name: device.name.clone(),
            ifindex: device.ifindex,
            xdp_mode: attached.mode,
        });
    }
    for ifindex in dataplane.attached()? {
        if wanted.iter().any(|(device, _)| device.ifindex == ifindex) {
            continue;
        }
        let name = before
            .iter()
            .find(|interface| interface.ifindex == ifindex)
            .map(|interface| interface.name.clone());
        let device = name.map(|name| Device {
            name,
            ifindex,
            is_virtual: false,
        });
        dataplane.detach(ifindex, device.as_ref())?;
        info!(ifindex, "packet path detached");
    }
    lock(&shared.observed).interfaces = interfaces;
    Ok(())
}
