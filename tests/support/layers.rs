//! Where the layers of a frame are: behind VLAN tags, options and extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{names::Family, packet::ETHERNET_LENGTH};

/// Ethernet type of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Ethernet type behind all VLAN tags, and the offset of what it names; `None` if the frame ends before.
pub fn network(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET_LENGTH;
    loop {
        match word(frame, at - 2)? {
            0x8100 | 0x88a8 => at += 4,
            ether_type => return Some((ether_type, at)),
        }
    }
}

/// A fragment's place in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPlace {
    /// In units of 8 bytes.
    pub offset: u16,
    /// Whether more is to come.
    pub more: bool,
}

/// An IP packet of either family. Its end may be missing, as in the quote of an ICMP error.
#[derive(Clone, Debug)]
pub struct IpPacket<'a> {
    /// Its family.
    pub family: Family,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The header with options, or with all extension headers that lead to the protocol.
    pub header: &'a [u8],
    /// What stands behind the header.
    pub protocol: u8,
    /// Its place, if it is a fragment.
    pub fragment: Option<FragmentPlace>,
    /// What stands behind the header, as far as it is there.
    pub segment: &'a [u8],
    /// How many bytes at the end are missing.
    pub missing: usize,
}

impl<'a> IpPacket<'a> {
    /// Reads a packet by its own length fields. Bytes behind its end are not part of it.
    ///
    /// # Errors
    ///
    /// When its headers are not there in full, or contradict themselves.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::read_ipv4(bytes),
            Some(6) => Self::read_ipv6(bytes),
            Some(version) => Err(format!("ip version {version}")),
            None => Err("no byte of an ip header".to_owned()),
        }
    }

    fn read_ipv4(bytes: &'a [u8]) -> Result<Self, String> {
        let header_length = usize::from(bytes[0] & 0x0f) * 4;
        let header = bytes
            .get(..header_length)
            .filter(|header| header.len() >= 20)
            .ok_or_else(|| format!("ip header of {header_length} bytes in a packet of {}", bytes.len()))?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let total_length = usize::from(number(2));
        if total_length < header_length {
            return Err(format!("ip length {total_length}, header {header_length}"));
        }
        let place = FragmentPlace {
            offset: number(6) & 0x1fff,
            more: number(6) & 0x2000 != 0,
        };
        let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map_or(Ipv4Addr::UNSPECIFIED, Into::into);
        let packet = &bytes[..total_length.min(bytes.len())];
        Ok(Self {
            family: Family::V4,
            source: address(12).into(),
            destination: address(16).into(),
            header,
            protocol: header[9],
            fragment: (place.offset != 0 || place.more).then_some(place),
            segment: &packet[header_length..],
            missing: total_length - packet.len(),
        })
    }

    fn read_ipv6(bytes: &'a [u8]) -> Result<Self, String> {
        let short = || format!("{} bytes are no whole ipv6 header", bytes.len());
        let fixed = bytes.get(..40).ok_or_else(short)?;
        let total_length = 40 + usize::from(word(bytes, 4).ok_or_else(short)?);
        let packet = &bytes[..total_length.min(bytes.len())];
        let (header_length, protocol, fragment) =
            extensions(packet).ok_or_else(|| format!("extension headers beyond a packet of {}", packet.len()))?;
        let address = |at: usize| <[u8; 16]>::try_from(&fixed[at..at + 16]).map_or(Ipv6Addr::UNSPECIFIED, Into::into);
        Ok(Self {
            family: Family::V6,
            source: address(8).into(),
            destination: address(24).into(),
            header: &packet[..header_length],
            protocol,
            fragment,
            segment: &packet[header_length..],
            missing: total_length - packet.len(),
        })
    }

    /// Whether a header of the protocol begins behind its own header: not in a fragment but the first.
    pub fn begins_segment(&self) -> bool {
        self.fragment.is_none_or(|place| place.offset == 0)
    }
}

/// Follows the chain of extension headers to what is none, or to the content of a fragment but the first: the length of all headers,
/// the protocol, and the place of the last fragment header. `None` if the packet ends before.
fn extensions(packet: &[u8]) -> Option<(usize, u8, Option<FragmentPlace>)> {
    let (mut next, mut at, mut fragment) = (packet[6], 40, None);
    loop {
        let length = extension_length(next, packet.get(at..at + 2));
        let Some(length) = length else {
            return Some((at, next, fragment));
        };
        let header = packet.get(at..at + length)?;
        if next == FRAGMENT {
            let place = word(header, 2)?;
            fragment = Some(FragmentPlace {
                offset: place >> 3,
                more: place & 1 == 1,
            });
        }
        (next, at) = (header[0], at + length);
        if fragment.is_some_and(|place| place.offset != 0) {
            return Some((at, next, fragment));
        }
    }
}

/// Number of the fragment header.
const FRAGMENT: u8 = 44;

/// Length of an extension header of this number, given its first two bytes; `None` if the number is no extension header's.
pub(crate) fn extension_length(number: u8, start: Option<&[u8]>) -> Option<usize> {
    let units = || start.map_or(0, |bytes| usize::from(bytes[1]));
    match number {
        // Hop-by-hop, routing, destination, mobility, host identity, shim6.
        0 | 43 | 60 | 135 | 139 | 140 => Some(8 + 8 * units()),
        FRAGMENT => Some(8),
        // Authentication counts 32-bit words, less two (RFC 4302, section 2.2).
        51 => Some(8 + 4 * units()),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// Whether an ICMP or ICMPv6 message of this type is an error that quotes a packet.
pub const fn quotes_a_packet(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => kind < 128,
    }
}

/// In errors of this type that may be followed by a structure of RFC 4884: which of the four bytes behind the checksum is the length
/// of the quote, and in units of how many bytes (sections 4.1 to 4.6).
pub const fn quote_length_field(family: Family, kind: u8) -> Option<(usize, usize)> {
    match (family, kind) {
        (Family::V4, 3 | 11 | 12) => Some((1, 4)),
        (Family::V6, 1 | 3) => Some((0, 8)),
        _ => None,
    }
}

/// What an ICMP error carries, split into quote and structure of RFC 4884; the latter is empty without a length that leaves room
/// for it.
pub fn quote_and_extension(family: Family, message: &[u8]) -> (&[u8], &[u8]) {
    let body = message.get(8..).unwrap_or_default();
    let length = message.first().and_then(|kind| {
        let (at, unit) = quote_length_field(family, *kind)?;
        let length = usize::from(*message.get(4 + at)?) * unit;
        (length > 0 && length < body.len()).then_some(length)
    });
    body.split_at(length.unwrap_or(body.len()))
}
