//! The interfaces of this network namespace.

#![forbid(unsafe_code)]

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkMessage};

use crate::dataplane::aya::Device;

/// Lists the interfaces.
///
/// Over netlink rather than from `/sys`, which shows the namespace that mounted it.
///
/// # Errors
///
/// What the kernel said.
pub async fn list() -> Result<Vec<Device>, rtnetlink::Error> {
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(|error| {
        rtnetlink::Error::NamespaceError(format!("cannot open a netlink socket: {error}"))
    })?;
    let driver = tokio::spawn(connection);
    let devices = handle.link().get().execute().try_filter_map(|link| async move { Ok(device(&link)) }).try_collect().await;
    driver.abort();
    devices
}

fn device(link: &LinkMessage) -> Option<Device> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    // Interfaces made by software carry their kind (veth, tun, bridge ...); those of hardware drivers carry none.
    let is_virtual = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| matches!(info, LinkInfo::Kind(_))),
        _ => false,
    });
    Some(Device { name, ifindex: link.header.index, is_virtual })
}
