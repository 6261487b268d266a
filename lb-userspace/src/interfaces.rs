//! The interfaces of this network namespace.

#![forbid(unsafe_code)]

use std::{collections::HashSet, io, net::IpAddr};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::AddressMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use rtnetlink::Handle;

use crate::{dataplane::aya::Device, netlink::OwnAddress};

/// Lists the interfaces.
///
/// Over netlink rather than from `/sys`, which shows the namespace that mounted it.
///
/// # Errors
///
/// What the kernel said.
pub async fn list() -> Result<Vec<Device>, InterfacesError> {
    ask(|handle| async move { handle.link().get().execute().try_collect::<Vec<LinkMessage>>().await })
        .await
        .map(|links| links.iter().filter_map(device).collect())
}

/// Lists the addresses of all interfaces.
///
/// # Errors
///
/// What the kernel said.
pub async fn addresses() -> Result<HashSet<IpAddr>, InterfacesError> {
    ask(|handle| async move {
        handle
            .address()
            .get()
            .execute()
            .try_collect::<Vec<AddressMessage>>()
            .await
    })
    .await
    .map(|addresses| {
        let own = addresses.iter().filter_map(OwnAddress::from_message);
        own.map(|own| own.address).collect()
    })
}

/// What netlink answered when it was asked for interfaces.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// An error answer.
    #[error(transparent)]
    Kernel(#[from] rtnetlink::Error),
}

/// Opens a netlink socket for one question.
async fn ask<T, F>(question: impl FnOnce(Handle) -> F) -> Result<T, InterfacesError>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (connection, handle, _messages) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let answer = question(handle).await;
    driver.abort();
    Ok(answer?)
}

fn device(link: &LinkMessage) -> Option<Device> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    // Interfaces made by software carry their kind (veth, tun, bridge ...); those of hardware drivers carry none.
    let kind = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    });
    Some(Device {
        name,
        ifindex: link.header.index,
        is_virtual: kind.is_some(),
        is_tun: kind.is_some_and(|kind| *kind == InfoKind::Tun),
    })
}
