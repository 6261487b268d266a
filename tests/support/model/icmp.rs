//! ICMP and ICMPv6: echo requests are answered, errors are translated.

use lb_common::{
    connection::Direction,
    flow::protocol,
    packet::{ICMP_HEADER, is_error_v4, is_error_v6},
    role::Roles,
    verdict::{DropReason, ForwardReason, PassReason},
};

use super::{
    End, Model, Sent,
    arrival::{Arrival, Quoted},
    flow::{Flow, is_valid_source, octets},
    write,
};
use crate::checksum::Sum;

/// Time to live of an answer to an echo request.
const ECHO_TTL: u8 = 64;

impl Model {
    /// The way of an ICMP message.
    pub(super) fn icmp(&mut self, arrival: &Arrival<'_>) -> Result<Sent, End> {
        if arrival.ip.more_fragments {
            return Err(PassReason::Fragment.into());
        }
        let message = arrival.payload();
        if message.len() < ICMP_HEADER {
            return Err(PassReason::Malformed.into());
        }
        let (echo_request, is_error) = if arrival.is_v4() {
            (8, is_error_v4(message[0]))
        } else {
            (128, is_error_v6(message[0]))
        };
        if message[0] == echo_request {
            self.echo(arrival)
        } else if is_error {
            self.error(arrival)
        } else {
            Err(PassReason::NotTcpOrUdp.into())
        }
    }

    fn echo(&self, arrival: &Arrival<'_>) -> Result<Sent, End> {
        let ip = &arrival.ip;
        let roles = self.config.roles.get(&ip.destination).copied().unwrap_or_default();
        if roles.any(Roles::REFUSE_ECHO) {
            return Err(DropReason::EchoRefused.into());
        }
        if !roles.any(Roles::ANSWER_ECHO) {
            return Err(PassReason::NotTcpOrUdp.into());
        }
        if !is_valid_source(ip.source) || ip.source == ip.destination {
            return Err(PassReason::InvalidSource.into());
        }
        let mut packet = arrival.frame[ip.l3..].to_vec();
        write::ip(&mut packet, ip.destination, ip.source, ECHO_TTL);
        let message = &mut packet[ip.l4 - ip.l3..];
        let request = [message[0], message[1]];
        message[0] = if arrival.is_v4() { 0 } else { 129 };
        let reply = [message[0], message[1]];
        let checksum = write::updated(write::number(message, 2), &request, &reply);
        write::put(message, 2, checksum);
        Ok(Sent {
            reason: ForwardReason::Echo,
            frame: write::frame(arrival, &arrival.way_back(0), &packet),
        })
    }

    fn error(&self, arrival: &Arrival<'_>) -> Result<Sent, End> {
        let ip = &arrival.ip;
        let quoted = arrival.quoted()?;
        if ip.destination != quoted.flow.source.ip() {
            return Err(PassReason::IcmpUnrelated.into());
        }
        let answers = self.connections.get(&quoted.flow.reversed());
        let answers = answers.ok_or(PassReason::IcmpUnrelated)?;
        if is_damaged(arrival, &quoted) {
            return Err(DropReason::IcmpChecksum.into());
        }
        let route = self.route_of(answers);
        self.check_way(arrival, &route).map_err(|end| match end {
            End::Refuse(refusal) => refusal.reason().into(),
            other => other,
        })?;
        let mut packet = arrival.frame[ip.l3..].to_vec();
        if route.direction != Direction::Direct {
            // As its sender has sent it.
            let original = answers.twin;
            translate(arrival, &mut packet, &quoted, &original);
        }
        Ok(Sent {
            reason: ForwardReason::IcmpError,
            frame: write::frame(arrival, &route.next_hop, &packet),
        })
    }
}

/// Sum over an ICMP message with its pseudo header; 0xffff folded when its checksum is right.
fn sum(source: std::net::IpAddr, destination: std::net::IpAddr, message: &[u8]) -> Sum {
    let sum = Sum::default().plus(message);
    if source.is_ipv4() {
        return sum;
    }
    let length = u32::try_from(message.len()).unwrap_or(0);
    sum.plus_pseudo_header(source, destination, protocol::ICMP_V6, length)
}

fn is_damaged(arrival: &Arrival<'_>, quoted: &Quoted) -> bool {
    let ip = &arrival.ip;
    if sum(ip.source, ip.destination, arrival.payload()).checksum() != 0 {
        return true;
    }
    if !arrival.is_v4() {
        return false;
    }
    // With its options, up to the L4 header.
    let header = &arrival.frame[quoted.l3..quoted.l4];
    Sum::default().plus(header).checksum() != 0
}

/// Gives the quoted packet the tuple `original`, and sends the error to its sender.
fn translate(arrival: &Arrival<'_>, packet: &mut [u8], quoted: &Quoted, original: &Flow) {
    let ip = &arrival.ip;
    let in_packet = |offset: usize| offset - ip.l3;
    let addresses = [octets(original.source.ip()), octets(original.destination.ip())].concat();

    let l3 = in_packet(quoted.l3);
    if arrival.is_v4() {
        packet[l3 + 12..l3 + 20].copy_from_slice(&addresses);
        write::put(packet, l3 + 10, 0);
        let checksum = Sum::default().plus(&packet[l3..in_packet(quoted.l4)]).checksum();
        write::put(packet, l3 + 10, checksum);
    } else {
        packet[l3 + 8..l3 + 40].copy_from_slice(&addresses);
    }
    let l4 = in_packet(quoted.l4);
    write::put(packet, l4, original.source.port());
    write::put(packet, l4 + 2, original.destination.port());
    if let Some(at) = quoted.checksum_at.map(in_packet) {
        let field = write::number(packet, at);
        // 0 is no checksum: none over UDP, padding over TCP.
        if field != 0 {
            let (old, new) = (write::covered(&quoted.flow), write::covered(original));
            let field = write::updated_l4(original.protocol, field, &old, &new);
            write::put(packet, at, field);
        }
    }

    // Who answers for the receiver of the quoted packet is that receiver, as its sender knows it; a router between is itself.
    let source = if original.destination.ip() == quoted.flow.destination.ip() {
        ip.source
    } else {
        original.destination.ip()
    };
    let destination = original.source.ip();
    write::ip(packet, source, destination, ip.ttl - 1);
    let message = in_packet(ip.l4)..in_packet(ip.l4) + usize::from(ip.payload);
    let message = &mut packet[message];
    write::put(message, 2, 0);
    let checksum = sum(source, destination, message).checksum();
    write::put(message, 2, checksum);
}
