//! To which packet a fragment belongs, read from its frame.

use std::net::IpAddr;

use crate::dataplane::aya::PacketId;

/// EtherTypes (IANA, "IEEE 802 Numbers").
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const CUSTOMER_TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

/// IPv6 extension headers that may stand before the fragment header (RFC 8200, section 4.1).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// The fragment header (RFC 8200, section 4.5).
const FRAGMENT: u8 = 44;

/// The packet that a frame has a fragment of; `None` if it has none, or is cut short.
pub(super) fn packet_of(frame: &[u8]) -> Option<PacketId> {
    let (ether_type, packet) = untagged(frame)?;
    match ether_type {
        IPV4 => ipv4(packet),
        IPV6 => ipv6(packet),
        _ => None,
    }
}

/// The EtherType behind the VLAN tags, and what follows it.
fn untagged(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut at = 12;
    loop {
        let ether_type = u16_at(frame, at)?;
        if ether_type != CUSTOMER_TAG && ether_type != SERVICE_TAG {
            return Some((ether_type, frame.get(at + 2..)?));
        }
        at += 4;
    }
}

/// RFC 791, section 3.1.
fn ipv4(header: &[u8]) -> Option<PacketId> {
    Some(PacketId {
        source: IpAddr::from(array_at::<4>(header, 12)?),
        destination: IpAddr::from(array_at::<4>(header, 16)?),
        id: u16_at(header, 4)?.into(),
        protocol: *header.get(9)?,
    })
}

/// RFC 8200, section 3.
fn ipv6(header: &[u8]) -> Option<PacketId> {
    let mut next = *header.get(6)?;
    let mut at = 40;
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
        next = *header.get(at)?;
        // In units of 8 bytes, the first one not counted.
        at += 8 * (usize::from(*header.get(at + 1)?) + 1);
    }
    if next != FRAGMENT {
        return None;
    }
    Some(PacketId {
        source: IpAddr::from(array_at::<16>(header, 8)?),
        destination: IpAddr::from(array_at::<16>(header, 24)?),
        id: u32::from_be_bytes(array_at(header, at + 4)?),
        // Identifications are of a pair of addresses alone here, and fragments may disagree on what follows the header.
        protocol: 0,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array_at(bytes, at)?))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    const UDP: u8 = 17;

    /// An IPv4 header of the last fragment of packet 0x1234, 198.51.100.7 to 203.0.113.10, UDP.
    const V4_HEADER: [u8; 20] = [
        0x45, 0, 0, 28, 0x12, 0x34, 0x00, 0xb9, 64, UDP, 0, 0, 198, 51, 100, 7, 203, 0, 113, 10,
    ];

    fn v4_packet() -> PacketId {
        PacketId {
            source: "198.51.100.7".parse().unwrap(),
            destination: "203.0.113.10".parse().unwrap(),
            id: 0x1234,
            protocol: UDP,
        }
    }

    fn frame(ether: &[u8], headers: &[&[u8]]) -> Vec<u8> {
        [&MACS, ether, &headers.concat()].concat()
    }

    /// An IPv6 header whose next header is `next`, 2001:db8::7 to 2001:db8::10.
    fn v6_header(next: u8) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0, 0, 32, next, 64];
        header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        header
    }

    /// A fragment header: next header UDP, offset 1480, last, identification 0xdeadbeef.
    const V6_FRAGMENT: [u8; 8] = [UDP, 0, 0x05, 0xc8, 0xde, 0xad, 0xbe, 0xef];

    #[test]
    fn ipv4_fragments_are_known_by_their_header_behind_any_tags() {
        let service = [0x88, 0xa8, 0, 100];
        let customer = [0x81, 0x00, 0, 200];
        for tags in [&[][..], &customer, &[service, customer].concat()] {
            let ether = [tags, &[0x08, 0x00]].concat();
            assert_eq!(packet_of(&frame(&ether, &[&V4_HEADER])), Some(v4_packet()), "{tags:?}");
        }
    }

    #[test]
    fn ipv6_fragments_are_known_by_their_fragment_header_behind_others() {
        let expected = PacketId {
            source: "2001:db8::7".parse().unwrap(),
            destination: "2001:db8::10".parse().unwrap(),
            id: 0xdead_beef,
            protocol: 0,
        };
        let ether = [0x86, 0xdd];
        let plain = frame(&ether, &[&v6_header(FRAGMENT), &V6_FRAGMENT]);
        assert_eq!(packet_of(&plain), Some(expected));
        // Hop-by-hop options of 8 bytes, then destination options of 16.
        let hop_by_hop = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let options = [FRAGMENT, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let long = frame(&ether, &[&v6_header(HOP_BY_HOP), &hop_by_hop, &options, &V6_FRAGMENT]);
        assert_eq!(packet_of(&long), Some(expected));
        assert_eq!(
            packet_of(&frame(&ether, &[&v6_header(UDP), &V6_FRAGMENT])),
            None,
            "no fragment"
        );
    }

    #[test]
    fn frames_that_are_cut_short_belong_to_no_packet() {
        let v4 = frame(&[0x08, 0x00], &[&V4_HEADER]);
        let v6 = frame(&[0x86, 0xdd], &[&v6_header(FRAGMENT), &V6_FRAGMENT]);
        for whole in [v4, v6] {
            for length in 0..whole.len() {
                assert_eq!(packet_of(&whole[..length]), None, "{length} bytes");
            }
        }
        assert_eq!(packet_of(&frame(&[0x08, 0x06], &[&V4_HEADER])), None, "ARP");
    }
}
