//! The addresses of the laboratory, one name each. Every IPv4 address has an IPv6 twin; [`Family`] gives either.
//!
//! ```text
//! client 1 ─┐                                                            ┌─ backend 1
//!           ├─ client router ────── gateway (xlb) ────── backend router ─┼─ backend 2
//! client 2 ─┘                                                            └─ backend 3
//! 10.1.0.0/24          10.2.0.0/24             10.3.0.0/24              10.4.0.0/24
//! 2001:db8:1::/64      2001:db8:2::/64         2001:db8:3::/64          2001:db8:4::/64
//! ```
//!
//! [`crate::topology::Wiring`] can put the gateway into the backends' network, and a link between the routers: 10.5.0.0/24 and
//! 2001:db8:6::/64.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A MAC address, as it stands in a frame.
pub type Mac = [u8; 6];

/// The first client.
pub const CLIENT: Ipv4Addr = client(1);
/// The second client.
pub const CLIENT_2: Ipv4Addr = client(2);
/// The client router, on the clients' network.
pub const CLIENT_LAN_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The client router, on the link to the gateway.
pub const CLIENT_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// The gateway, on the link to the client router.
pub const GATEWAY_TO_CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// The gateway, on the link to the backend router.
pub const GATEWAY_TO_BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);
/// The backend router, on the link to the gateway.
pub const BACKEND_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
/// The backend router, on the backends' network.
pub const BACKEND_LAN_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 1);
/// The gateway, on the backends' network; only if it is wired so.
pub const GATEWAY_ON_LAN: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 2);
/// The client router, on the link to the backend router; only if there is one.
pub const CLIENT_ROUTER_DIRECT: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);
/// The backend router, on the link to the client router; only if there is one.
pub const BACKEND_ROUTER_DIRECT: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 2);
/// The first backend.
pub const BACKEND_1: Ipv4Addr = backend(1);
/// The second backend.
pub const BACKEND_2: Ipv4Addr = backend(2);
/// The third backend.
pub const BACKEND_3: Ipv4Addr = backend(3);

/// The VIP. The client router sends all of 203.0.113.0/24 to the gateway.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Another VIP, routed like the first and never an address of the gateway itself.
pub const VIP_2: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// An address for the `snat` pool: no host has it, and the backends' routes lead through the gateway.
pub const SNAT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// The IPv6 twin of [`CLIENT`].
pub const CLIENT_V6: Ipv6Addr = client_v6(1);
/// The IPv6 twin of [`CLIENT_2`].
pub const CLIENT_2_V6: Ipv6Addr = client_v6(2);
/// The IPv6 twin of [`CLIENT_LAN_ROUTER`].
pub const CLIENT_LAN_ROUTER_V6: Ipv6Addr = documentation(1, 0x01);
/// The IPv6 twin of [`CLIENT_ROUTER`].
pub const CLIENT_ROUTER_V6: Ipv6Addr = documentation(2, 0x01);
/// The IPv6 twin of [`GATEWAY_TO_CLIENTS`].
pub const GATEWAY_TO_CLIENTS_V6: Ipv6Addr = documentation(2, 0x02);
/// The IPv6 twin of [`GATEWAY_TO_BACKENDS`].
pub const GATEWAY_TO_BACKENDS_V6: Ipv6Addr = documentation(3, 0x01);
/// The IPv6 twin of [`BACKEND_ROUTER`].
pub const BACKEND_ROUTER_V6: Ipv6Addr = documentation(3, 0x02);
/// The IPv6 twin of [`BACKEND_LAN_ROUTER`].
pub const BACKEND_LAN_ROUTER_V6: Ipv6Addr = documentation(4, 0x01);
/// The IPv6 twin of [`GATEWAY_ON_LAN`].
pub const GATEWAY_ON_LAN_V6: Ipv6Addr = documentation(4, 0x02);
/// The IPv6 twin of [`CLIENT_ROUTER_DIRECT`].
pub const CLIENT_ROUTER_DIRECT_V6: Ipv6Addr = documentation(6, 0x01);
/// The IPv6 twin of [`BACKEND_ROUTER_DIRECT`].
pub const BACKEND_ROUTER_DIRECT_V6: Ipv6Addr = documentation(6, 0x02);
/// The IPv6 twin of [`BACKEND_1`].
pub const BACKEND_1_V6: Ipv6Addr = backend_v6(1);
/// The IPv6 twin of [`BACKEND_2`].
pub const BACKEND_2_V6: Ipv6Addr = backend_v6(2);
/// The IPv6 twin of [`BACKEND_3`].
pub const BACKEND_3_V6: Ipv6Addr = backend_v6(3);

/// The IPv6 twin of [`VIP`]. The client router sends all of 2001:db8::/64 to the gateway.
pub const VIP_V6: Ipv6Addr = documentation(0, 0x10);
/// The IPv6 twin of [`VIP_2`].
pub const VIP_2_V6: Ipv6Addr = documentation(0, 0x11);
/// The IPv6 twin of [`SNAT`].
pub const SNAT_V6: Ipv6Addr = documentation(5, 0x10);

/// The client router's interface on the link to the gateway.
pub const CLIENT_ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0x02, 0x01];
/// The gateway's interface [`TO_CLIENTS`].
pub const GATEWAY_TO_CLIENTS_MAC: Mac = [0x02, 0, 0, 0, 0x02, 0x02];
/// The gateway's interface [`TO_BACKENDS`].
pub const GATEWAY_TO_BACKENDS_MAC: Mac = [0x02, 0, 0, 0, 0x03, 0x01];
/// The backend router's interface on the link to the gateway.
pub const BACKEND_ROUTER_MAC: Mac = [0x02, 0, 0, 0, 0x03, 0x02];

/// Name of the gateway's interface towards the clients.
pub const TO_CLIENTS: &str = "clients";
/// Name of the gateway's interface towards the backends.
pub const TO_BACKENDS: &str = "backends";

/// IPv4 address of the client with this number, from 1.
pub const fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 10 + number)
}

/// IPv6 address of the client with this number, from 1.
pub const fn client_v6(number: u8) -> Ipv6Addr {
    documentation(1, 0x10 + number)
}

/// IPv4 address of the backend with this number, from 1.
pub const fn backend(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 4, 0, 10 + number)
}

/// IPv6 address of the backend with this number, from 1.
pub const fn backend_v6(number: u8) -> Ipv6Addr {
    documentation(4, 0x10 + number)
}

/// An address of the prefix for documentation (RFC 3849), in the network with this number.
const fn documentation(network: u16, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host as u16)
}

/// A MAC address as `ip` reads it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An IP family, for tests that are written once for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(v4),
            Self::V6 => IpAddr::V6(v6),
        }
    }

    /// The client with this number, from 1.
    pub const fn client(self, number: u8) -> IpAddr {
        self.pick(client(number), client_v6(number))
    }

    /// The client router, on the clients' network.
    pub const fn client_lan_router(self) -> IpAddr {
        self.pick(CLIENT_LAN_ROUTER, CLIENT_LAN_ROUTER_V6)
    }

    /// The client router, on the link to the gateway.
    pub const fn client_router(self) -> IpAddr {
        self.pick(CLIENT_ROUTER, CLIENT_ROUTER_V6)
    }

    /// The gateway, on the link to the client router.
    pub const fn gateway_to_clients(self) -> IpAddr {
        self.pick(GATEWAY_TO_CLIENTS, GATEWAY_TO_CLIENTS_V6)
    }

    /// The gateway, on the link to the backend router.
    pub const fn gateway_to_backends(self) -> IpAddr {
        self.pick(GATEWAY_TO_BACKENDS, GATEWAY_TO_BACKENDS_V6)
    }

    /// The backend router, on the link to the gateway.
    pub const fn backend_router(self) -> IpAddr {
        self.pick(BACKEND_ROUTER, BACKEND_ROUTER_V6)
    }

    /// The backend router, on the backends' network.
    pub const fn backend_lan_router(self) -> IpAddr {
        self.pick(BACKEND_LAN_ROUTER, BACKEND_LAN_ROUTER_V6)
    }

    /// The gateway, on the backends' network; only if it is wired so.
    pub const fn gateway_on_lan(self) -> IpAddr {
        self.pick(GATEWAY_ON_LAN, GATEWAY_ON_LAN_V6)
    }

    /// The client router, on the link to the backend router; only if there is one.
    pub const fn client_router_direct(self) -> IpAddr {
        self.pick(CLIENT_ROUTER_DIRECT, CLIENT_ROUTER_DIRECT_V6)
    }

    /// The backend router, on the link to the client router; only if there is one.
    pub const fn backend_router_direct(self) -> IpAddr {
        self.pick(BACKEND_ROUTER_DIRECT, BACKEND_ROUTER_DIRECT_V6)
    }

    /// The backend with this number, from 1.
    pub const fn backend(self, number: u8) -> IpAddr {
        self.pick(backend(number), backend_v6(number))
    }

    /// The VIP.
    pub const fn vip(self) -> IpAddr {
        self.pick(VIP, VIP_V6)
    }

    /// The other VIP.
    pub const fn vip_2(self) -> IpAddr {
        self.pick(VIP_2, VIP_2_V6)
    }

    /// The address for the `snat` pool.
    pub const fn snat(self) -> IpAddr {
        self.pick(SNAT, SNAT_V6)
    }

    /// The clients' network, as `ip` reads it.
    pub const fn client_network(self) -> &'static str {
        match self {
            Self::V4 => "10.1.0.0/24",
            Self::V6 => "2001:db8:1::/64",
        }
    }

    /// The backends' network, as `ip` reads it.
    pub const fn backend_network(self) -> &'static str {
        match self {
            Self::V4 => "10.4.0.0/24",
            Self::V6 => "2001:db8:4::/64",
        }
    }

    /// The network of the VIPs, as `ip` reads it.
    pub const fn vip_network(self) -> &'static str {
        match self {
            Self::V4 => "203.0.113.0/24",
            Self::V6 => "2001:db8::/64",
        }
    }

    /// Prefix length of every network of the laboratory.
    pub const fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Prefix length of a single address.
    pub const fn host_prefix_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The largest TCP segment in an Ethernet frame without options.
    pub const fn ethernet_segment(self) -> u16 {
        match self {
            Self::V4 => 1460,
            Self::V6 => 1440,
        }
    }

    /// The address that means "any".
    pub const fn unspecified(self) -> IpAddr {
        self.pick(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
