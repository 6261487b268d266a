//! The addresses of the laboratory, one name each.
//!
//! ```text
//! client 1 ─┐                                                            ┌─ backend 1
//!           ├─ client router ────── gateway (xlb) ────── backend router ─┼─ backend 2
//! client 2 ─┘                                                            └─ backend 3
//! 10.1.0.0/24          10.2.0.0/24             10.3.0.0/24              10.4.0.0/24
//! ```

use std::net::Ipv4Addr;

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

/// Address of the client with this number, from 1.
pub const fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, 10 + number)
}

/// Address of the backend with this number, from 1.
pub const fn backend(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 4, 0, 10 + number)
}

/// A MAC address as `ip` reads it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
