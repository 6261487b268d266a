//! The headers of a frame, read a second time as the RFCs draw them: byte by byte, from a slice that ends where the packet does.

use lb_common::{
    address::{V4, V6},
    byte_order::Be16,
    flow::protocol,
    packet::{Extent, Ip, Link, Network, Packet, Quote, ether_type},
};

use crate::rfc_1071::sum;

/// `data`: a frame, from its Ethernet header on.
pub(crate) fn check(data: &[u8]) {
    // Allocated, it begins at an even address.
    let frame = &data.to_vec()[..];
    let expected = expected_l3(frame);
    let link = Link::read(frame).ok();
    assert_eq!(link.map(|link| link.l3), expected, "where the packet begins");
    let Some(link) = link else { return };
    assert_eq!((&link.destination[..], &link.source[..]), (&frame[..6], &frame[6..12]));
    assert_eq!(link.ether_type, be16(frame, link.l3 - 2));
    match link.ether_type {
        ether_type::IPV4 => check_packet::<V4>(frame, &link, &IPV4),
        ether_type::IPV6 => check_packet::<V6>(frame, &link, &IPV6),
        _ => {}
    }
}

/// Behind two addresses, at most two tags of four bytes, and the EtherType; nowhere in a frame to a group.
fn expected_l3(frame: &[u8]) -> Option<usize> {
    let is_tag = |at: usize| {
        frame
            .get(at..at + 2)
            .is_some_and(|kind| kind == [0x81, 0x00] || kind == [0x88, 0xa8])
    };
    let tags = usize::from(is_tag(12)) + usize::from(is_tag(12) && is_tag(16));
    let l3 = 14 + 4 * tags;
    (frame.len() >= l3 && frame[0] & 1 == 0).then_some(l3)
}

/// What differs between the families.
struct Family<A> {
    /// Reads the IP header at an offset of a frame.
    header: fn(&[u8], usize, Extent) -> Option<Header>,
    address: fn(&[u8]) -> A,
    /// Where the source address stands in the header, and how long it is; the destination follows it.
    source: (usize, usize),
}

const IPV4: Family<V4> = Family {
    header: header_v4,
    address: |bytes| V4::from_wire(bytes.try_into().expect("4 bytes")),
    source: (12, 4),
};

const IPV6: Family<V6> = Family {
    header: header_v6,
    address: |bytes| V6::from_wire(bytes.try_into().expect("16 bytes")),
    source: (8, 16),
};

/// What an IP header says, with those that extend it.
#[derive(Debug, PartialEq)]
struct Header {
    /// Length of the headers, and of the whole packet.
    length: usize,
    total: usize,
    protocol: u8,
    ttl: u8,
    id: u32,
    fragment_offset: u16,
    more_fragments: bool,
}

/// RFC 791, section 3.1.
fn header_v4(frame: &[u8], l3: usize, extent: Extent) -> Option<Header> {
    let bytes = frame.get(l3..)?;
    let fixed = bytes.get(..20)?;
    let (length, total) = (usize::from(fixed[0] & 15) * 4, usize::from(be16(fixed, 2)));
    let cut = extent == Extent::Whole && total > bytes.len();
    if fixed[0] >> 4 != 4 || length < 20 || total < length || cut {
        return None;
    }
    Some(Header {
        length,
        total,
        protocol: fixed[9],
        ttl: fixed[8],
        id: be16(fixed, 4).into(),
        fragment_offset: be16(fixed, 6) % 0x2000 * 8,
        more_fragments: fixed[6] & 0x20 != 0,
    })
}

/// RFC 8200, sections 3 and 4.
fn header_v6(frame: &[u8], l3: usize, extent: Extent) -> Option<Header> {
    /// What lies further into a frame is left to the kernel.
    const FURTHEST: usize = 16_127;
    let bytes = frame.get(l3..)?;
    let fixed = bytes.get(..40)?;
    let total = 40 + usize::from(be16(fixed, 4));
    let cut = extent == Extent::Whole && total > bytes.len();
    if fixed[0] >> 4 != 6 || total == 40 || total > 65_535 || cut {
        return None;
    }
    let mut header = Header {
        length: 40,
        total,
        protocol: fixed[6],
        ttl: fixed[7],
        id: 0,
        fragment_offset: 0,
        more_fragments: false,
    };
    let mut followed = 0;
    // Hop-by-hop options, routing, fragment, destination options.
    while matches!(header.protocol, 0 | 43 | 44 | 60) && header.fragment_offset == 0 {
        let next = bytes.get(header.length..header.length + 8)?;
        followed += 1;
        if followed > 8 || header.protocol == 43 && next[3] != 0 {
            return None;
        }
        if header.protocol == 44 {
            header.id = u32::from(be16(next, 4)) << 16 | u32::from(be16(next, 6));
            header.fragment_offset = be16(next, 2) & 0xfff8;
            header.more_fragments = next[3] & 1 != 0;
            header.length += 8;
        } else {
            header.length += 8 + 8 * usize::from(next[1]);
        }
        header.protocol = next[0];
    }
    (header.length <= total && l3 + header.length <= FURTHEST).then_some(header)
}

fn check_packet<A: Ip>(frame: &[u8], link: &Link, family: &Family<A>) {
    let expected = (family.header)(frame, link.l3, Extent::Whole);
    let network = A::network(frame, link.l3, Extent::Whole).ok();
    assert_eq!(network.as_ref().map(header_of), expected, "the IP header");
    let Some(network) = network else { return };
    assert!((network.source, network.destination) == addresses(frame, network.l3, family));
    if network.id_at != 0 {
        let id = &frame[network.id_at..];
        let wide = u32::from(be16(id, 0)) << 16 | u32::from(be16(id, 2));
        assert!(
            network.id == wide || network.id == be16(id, 0).into(),
            "the identification"
        );
    }
    if network.is_later_fragment() {
        return;
    }
    if network.protocol == A::ICMP {
        check_quote(frame, &network, family);
    } else {
        check_transport(frame, link, &network);
    }
}

fn header_of<A>(network: &Network<A>) -> Header {
    let total = usize::from(network.length);
    assert_eq!(
        network.l4 + usize::from(network.payload),
        network.l3 + total,
        "where the packet ends"
    );
    Header {
        length: network.l4 - network.l3,
        total,
        protocol: network.protocol,
        ttl: network.ttl,
        id: network.id,
        fragment_offset: network.fragment_offset,
        more_fragments: network.more_fragments,
    }
}

fn addresses<A>(frame: &[u8], l3: usize, family: &Family<A>) -> (A, A) {
    let (at, length) = family.source;
    let (source, rest) = frame[l3 + at..].split_at(length);
    ((family.address)(source), (family.address)(&rest[..length]))
}

/// RFC 9293, section 3.1; RFC 768.
fn check_transport<A: Ip>(frame: &[u8], link: &Link, network: &Network<A>) {
    let segment = &frame[network.l4..network.l3 + usize::from(network.length)];
    let expected = match network.protocol {
        protocol::TCP if segment.len() >= 20 => {
            let header = usize::from(segment[12] >> 4) * 4;
            (20..=segment.len()).contains(&header).then_some((segment.len(), 16))
        }
        protocol::UDP if segment.len() >= 8 => {
            let length = usize::from(be16(segment, 4));
            // A first fragment tells the length of the whole datagram.
            let fits = length <= segment.len() || network.more_fragments;
            (length >= 8 && fits).then_some((length, 6))
        }
        _ => None,
    };
    let packet = Packet::read(frame, 7, link, network).ok();
    let found = packet.as_ref().map(|packet| usize::from(packet.l4_length));
    assert_eq!(found, expected.map(|(length, _)| length), "length of the segment");
    let (Some(packet), Some((length, checksum_at))) = (packet, expected) else {
        return;
    };
    let checksum = &segment[checksum_at..checksum_at + 2];
    assert_eq!(packet.l4_checksum.to_ne_bytes(), checksum);
    assert_eq!(
        (packet.key.source_port, packet.key.destination_port),
        (port(segment, 0), port(segment, 2))
    );
    assert_eq!(
        (packet.l3, packet.l4, packet.ttl),
        (network.l3, network.l4, network.ttl)
    );
    assert!((packet.key.source, packet.key.destination) == (network.source, network.destination));

    let pseudo = pseudo_header(frame, network, length);
    let unfinished = sum(&pseudo) == be16(checksum, 0) && !network.more_fragments;
    assert_eq!(packet.partial, unfinished, "whether the checksum is finished");
}

/// The pseudo header as bytes. Its addresses stand side by side in both IP headers.
fn pseudo_header<A>(frame: &[u8], network: &Network<A>, length: usize) -> Vec<u8> {
    let (at, both) = if size_of::<A>() == 4 { (12, 8) } else { (8, 32) };
    let mut bytes = frame[network.l3 + at..][..both].to_vec();
    bytes.extend([0, network.protocol]);
    bytes.extend(u16::try_from(length).expect("16 bits").to_be_bytes());
    bytes
}

/// An ICMP error quotes a packet behind eight bytes of its own (RFC 792; RFC 4443, section 2.1).
fn check_quote<A: Ip>(frame: &[u8], network: &Network<A>, family: &Family<A>) {
    let end = network.l3 + usize::from(network.length);
    let l3 = network.l4 + 8;
    let expected = (family.header)(frame, l3, Extent::Quoted).filter(|header| {
        let known = header.protocol == protocol::TCP || header.protocol == protocol::UDP;
        known && header.fragment_offset == 0 && l3 + header.length + 8 <= end
    });
    let quote = Quote::read(frame, network).ok();
    let found = quote.as_ref().map(|quote| (quote.l3, quote.l4, quote.key.protocol));
    let known = expected.map(|header| (l3, l3 + header.length, header.protocol));
    assert_eq!(found, known, "the quoted packet");
    let Some(quote) = quote else { return };
    let segment = &frame[quote.l4..end];
    assert!((quote.key.source, quote.key.destination) == addresses(frame, l3, family));
    assert_eq!(
        (quote.key.source_port, quote.key.destination_port),
        (port(segment, 0), port(segment, 2))
    );
    let field = if quote.key.protocol == protocol::TCP { 16 } else { 6 };
    match segment.get(field..field + 2) {
        Some(checksum) => {
            assert_eq!(quote.checksum_at, quote.l4 + field);
            assert_eq!(quote.checksum.to_ne_bytes(), checksum);
        }
        None => assert_eq!(quote.checksum_at, 0, "a checksum that is not quoted"),
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn port(bytes: &[u8], at: usize) -> Be16 {
    Be16::from_wire([bytes[at], bytes[at + 1]])
}
