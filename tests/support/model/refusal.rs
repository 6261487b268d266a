//! ICMP errors of the program's own, to the sender of a packet that can't go on.

use lb_common::{
    flow::protocol,
    verdict::{Event, Refusal},
};

use super::{
    Model,
    arrival::Arrival,
    flow::{is_valid_source, octets},
    write,
};
use crate::checksum::Sum;

impl Model {
    /// The error, as it is sent back to where the packet came from; `None` when its sender can't be told.
    pub(super) fn refuse(&mut self, arrival: &Arrival<'_>, refusal: Refusal) -> Option<Vec<u8>> {
        let sender = arrival.ip.source;
        if !is_valid_source(sender) {
            return None;
        }
        self.events.push(Event::IcmpSent.label());
        let interface = self.config.interfaces.get(&arrival.ifindex);
        let packet = if arrival.is_v4() {
            let own = interface.map(|interface| std::net::Ipv4Addr::from(interface.v4).into());
            let source = own
                .filter(|own| is_valid_source(*own))
                .unwrap_or(arrival.ip.destination);
            let (kind, code) = if refusal.is_ttl_expired() { (11, 0) } else { (3, 4) };
            // 576 bytes at most (RFC 1812, section 4.3.2.3).
            let message = message(arrival, kind, code, refusal, 576 - 20);
            let checksum = Sum::default().plus(&message).checksum();
            ipv4(&octets(source), &octets(sender), with_checksum(message, checksum))
        } else {
            let own = interface.map(|interface| std::net::Ipv6Addr::from(interface.v6).into());
            let source = own
                .filter(|own| is_valid_source(*own))
                .unwrap_or(arrival.ip.destination);
            let kind = if refusal.is_ttl_expired() { 3 } else { 2 };
            // 1280 bytes at most (RFC 4443, section 2.4 (c)).
            let message = message(arrival, kind, 0, refusal, 1280 - 40);
            let length = u32::try_from(message.len()).ok()?;
            let sum = Sum::default()
                .plus(&message)
                .plus_pseudo_header(source, sender, protocol::ICMP_V6, length);
            ipv6(&octets(source), &octets(sender), with_checksum(message, sum.checksum()))
        };
        let back = arrival.way_back(0);
        let ether_type = &arrival.frame[arrival.link.l3 - 2..arrival.link.l3];
        let tags = write::tags(&back, 0, ether_type);
        Some([&back.destination[..], &back.source, &tags, &packet].concat())
    }
}

/// An ICMP message of this length at most, without its checksum: the header, and as much of the packet as there is room for.
fn message(arrival: &Arrival<'_>, kind: u8, code: u8, refusal: Refusal, longest: usize) -> Vec<u8> {
    let packet = &arrival.packet_in_frame()[arrival.ip.l3..];
    let [high, low] = refusal.mtu().to_be_bytes();
    let header = [kind, code, 0, 0, 0, 0, high, low];
    let room = longest - header.len();
    [&header, &packet[..packet.len().min(room)]].concat()
}

fn with_checksum(mut message: Vec<u8>, checksum: u16) -> Vec<u8> {
    write::put(&mut message, 2, checksum);
    message
}

fn ipv4(source: &[u8], destination: &[u8], message: Vec<u8>) -> Vec<u8> {
    // Internetwork control; no identification, not to be fragmented; 64 hops.
    let mut header = vec![0x45, 0xc0, 0, 0, 0, 0, 0x40, 0, 64, protocol::ICMP, 0, 0];
    header.extend([source, destination].concat());
    let length = header.len() + message.len();
    write::put(&mut header, 2, u16::try_from(length).unwrap_or(0));
    let checksum = Sum::default().plus(&header).checksum();
    write::put(&mut header, 10, checksum);
    [header, message].concat()
}

fn ipv6(source: &[u8], destination: &[u8], message: Vec<u8>) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol::ICMP_V6, 64];
    write::put(&mut header, 4, u16::try_from(message.len()).unwrap_or(0));
    [header, source.to_vec(), destination.to_vec(), message].concat()
}
