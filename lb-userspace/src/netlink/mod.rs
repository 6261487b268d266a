//! The way to each backend: routes, links and neighbours as the kernel has them, kept fresh.

#![forbid(unsafe_code)]

use std::{collections::HashMap, net::IpAddr};

use lb_common::backend::NextHop;

/// Where packets for one address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Interface and Ethernet addresses.
    pub next_hop: NextHop,
    /// Largest IP packet that the way takes, in bytes.
    pub mtu: u16,
    /// This host's own address on the way.
    pub source: IpAddr,
}

/// Why there is no way to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The routing table has nothing for it, or says that it can't be reached.
    #[error("no route to {0}, add one")]
    NoRoute(IpAddr),
}

/// What is known of each address that was asked for. One that is missing was not looked at yet.
pub type Ways = HashMap<IpAddr, Result<Resolved, Unresolved>>;
