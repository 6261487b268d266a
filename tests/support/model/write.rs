//! Writing packets: bytes put where they belong, checksums by their definition or word by word after RFC 1624.

use std::net::IpAddr;

use lb_common::{
    backend::{NextHop, Tag},
    connection::Direction,
    flow::protocol,
};

use super::{
    Kind,
    arrival::{Arrival, Segment},
    connections::Route,
    flow::{Flow, octets},
};
use crate::checksum::Sum;

/// Where the L4 checksum is within its header.
pub(super) const fn checksum_offset(protocol: u8) -> usize {
    if protocol == protocol::TCP { 16 } else { 6 }
}

/// A 16-bit number in a packet.
pub(super) fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes a 16-bit number into a packet.
pub(super) fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// A checksum field for data of which `old` became `new`: `HC' = ~(~HC + ~m + m')` over all 16-bit words (RFC 1624, equation 3).
pub(super) fn updated(field: u16, old: &[u8], new: &[u8]) -> u16 {
    let complement: Vec<u8> = old.iter().map(|byte| !byte).collect();
    Sum::default()
        .plus(&(!field).to_be_bytes())
        .plus(&complement)
        .plus(new)
        .checksum()
}

/// As [`updated`] for an L4 checksum: over UDP 0 means "none", and a computed 0 is sent as all ones (RFC 768).
pub(super) fn updated_l4(protocol: u8, field: u16, old: &[u8], new: &[u8]) -> u16 {
    match (protocol, field) {
        (protocol::UDP, 0) => 0,
        (protocol::UDP, _) => not_none(updated(field, old, new)),
        _ => updated(field, old, new),
    }
}

const fn not_none(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// What a checksum sees of a tuple: addresses, then ports.
pub(super) fn covered(flow: &Flow) -> Vec<u8> {
    let ends = [flow.source, flow.destination];
    let addresses = ends.iter().flat_map(|end| octets(end.ip()));
    let ports = ends.iter().flat_map(|end| end.port().to_be_bytes());
    addresses.chain(ports).collect()
}

/// A frame with the packet of another one, whose first byte is that of the IP header, behind the link header for `next_hop`.
pub(super) fn frame(arrival: &Arrival<'_>, next_hop: &NextHop, packet: &[u8]) -> Vec<u8> {
    let link = &arrival.frame[..arrival.link.l3];
    let between = if next_hop.tags == arrival.link.tags {
        link[12..].to_vec()
    } else {
        // The priority of the first tag is kept.
        let priority = if link.len() > 14 { link[14] & 0xf0 } else { 0 };
        tags(next_hop, priority, &link[link.len() - 2..])
    };
    [&next_hop.destination[..], &next_hop.source, &between, packet].concat()
}

/// Tags, and behind them the EtherType of the packet.
pub(super) fn tags(next_hop: &NextHop, priority: u8, ether_type: &[u8]) -> Vec<u8> {
    let present = |tag: &Tag| tag.is_present();
    let tags = [next_hop.tags.outer, next_hop.tags.inner];
    let mut bytes = Vec::new();
    for tag in tags.into_iter().filter(present) {
        bytes.extend(if tag.is_service() { [0x88, 0xa8] } else { [0x81, 0x00] });
        let [high, low] = tag.vlan().to_be_bytes();
        bytes.extend([high | priority, low]);
    }
    bytes.extend(ether_type);
    bytes
}

/// Writes addresses and time to live into the IP header at the start of `packet`.
pub(super) fn ip(packet: &mut [u8], source: IpAddr, destination: IpAddr, ttl: u8) {
    let addresses = [octets(source), octets(destination)].concat();
    if source.is_ipv6() {
        packet[7] = ttl;
        packet[8..40].copy_from_slice(&addresses);
        return;
    }
    let before = [&packet[8..10], &packet[12..20]].concat();
    packet[8] = ttl;
    packet[12..20].copy_from_slice(&addresses);
    let after = [&packet[8..10], &packet[12..20]].concat();
    put(packet, 10, updated(number(packet, 10), &before, &after));
}

/// Writes the identification of a fragment.
pub(super) fn identification(arrival: &Arrival<'_>, packet: &mut [u8], id: u32) {
    if id == arrival.ip.id {
        return;
    }
    let at = arrival.ip.id_at - arrival.ip.l3;
    let bytes = id.to_be_bytes();
    if arrival.is_v4() {
        let (before, after) = (number(packet, at), number(&bytes, 2));
        put(packet, at, after);
        let checksum = updated(number(packet, 10), &before.to_be_bytes(), &after.to_be_bytes());
        put(packet, 10, checksum);
    } else {
        packet[at..at + 4].copy_from_slice(&bytes);
    }
}

/// A TCP or UDP packet on its route.
pub(super) fn segment(arrival: &Arrival<'_>, segment: &Segment, route: &Route, id: u32, kind: Kind) -> Vec<u8> {
    let mut packet = arrival.frame[arrival.ip.l3..].to_vec();
    identification(arrival, &mut packet, id);
    let l4 = arrival.ip.l4 - arrival.ip.l3;
    let checksum_at = l4 + checksum_offset(segment.flow.protocol);
    if route.direction != Direction::Direct {
        let to = &route.to;
        ip(&mut packet, to.source.ip(), to.destination.ip(), arrival.ip.ttl - 1);
        put(&mut packet, l4, to.source.port());
        put(&mut packet, l4 + 2, to.destination.port());
        let field = number(&packet, checksum_at);
        let (old, new) = (covered(&segment.flow), covered(to));
        put(&mut packet, checksum_at, updated_l4(to.protocol, field, &old, &new));
    }
    if kind == Kind::NativeVirtual && segment.partial {
        put(&mut packet, checksum_at, 0);
        let covered = &packet[l4..l4 + usize::from(segment.length)];
        let sum = Sum::default().plus(covered).plus_pseudo_header(
            route.to.source.ip(),
            route.to.destination.ip(),
            route.to.protocol,
            segment.length.into(),
        );
        let checksum = match route.to.protocol {
            protocol::UDP => not_none(sum.checksum()),
            _ => sum.checksum(),
        };
        put(&mut packet, checksum_at, checksum);
    }
    frame(arrival, &route.next_hop, &packet)
}
