//! What a device does for the packets that are sent through it, asked of its driver: what `ethtool -k` shows.

use std::{collections::BTreeMap, ffi::c_char, io, net::UdpSocket, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;

/// Offloads by the names of `ethtool -k`, and the commands that ask for them (`ETHTOOL_G...` in `linux/ethtool.h`).
const COMMANDS: [(&str, u32); 4] = [
    ("tx-checksumming", 0x16),
    ("scatter-gather", 0x18),
    ("tcp-segmentation-offload", 0x1e),
    ("generic-segmentation-offload", 0x23),
];

/// `ETHTOOL_STXCSUM`.
const SET_TX_CHECKSUMMING: u32 = 0x17;

/// The offloads of a device and whether they are on.
pub type Offloads = BTreeMap<&'static str, bool>;

/// Asks a device in a namespace.
///
/// # Errors
///
/// When there is no such device.
pub fn of(namespace: &Namespace, device: &str) -> Result<Offloads> {
    let ask = |(name, command)| Ok((name, ethtool(device, command, 0)? != 0));
    let offloads = namespace.run(|| COMMANDS.into_iter().map(ask).collect::<Result<_>>())?;
    offloads.with_context(|| format!("in {}", namespace.name()))
}

/// Makes a device like a network card without offloads: the kernel cuts long packets and finishes checksums before it gets them, so
/// that whoever receives them verifies every checksum.
///
/// # Errors
///
/// When there is no such device.
pub fn switch_off(namespace: &Namespace, device: &str) -> Result<()> {
    namespace.run(|| ethtool(device, SET_TX_CHECKSUMMING, 0))??;
    let offloads = of(namespace, device)?;
    ensure!(
        !offloads["tx-checksumming"] && !offloads["tcp-segmentation-offload"],
        "{device} keeps its offloads: {offloads:?}"
    );
    Ok(())
}

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Gives a command with a value to a device of this thread's namespace, and returns the value that comes back.
fn ethtool(device: &str, command: u32, data: u32) -> Result<u32> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut value = EthtoolValue { command, data };
    let mut name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    ensure!(device.len() < name.len(), "no device has a name as long as {device}");
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    // SAFETY: the request and the value that it points to live until the call returns, and have the layout that the kernel wants.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    ensure!(
        result == 0,
        "ethtool command {command:#x} for {device}: {}",
        io::Error::last_os_error()
    );
    Ok(value.data)
}
