//! All checksums of a frame, recomputed in full.

use crate::{
    checksum::Sum,
    layers::{self, ICMP, ICMPV6, IPV4, IPV6, IpPacket, TCP, UDP},
    names::Family,
};

/// Recomputes the checksums of a frame in full and compares: IPv4 header, TCP, UDP, ICMP and ICMPv6, behind VLAN tags and extension
/// headers; in an ICMP error the structure of RFC 4884, the quoted IPv4 header, and what that packet carries if it is quoted to its
/// end. Of a fragment only the IPv4 header can be verified. A UDP checksum of zero is "none": right over IPv4, wrong over IPv6.
///
/// # Errors
///
/// Says which checksum is wrong with both values, or where the frame is too short or carries something else.
pub fn checksums_valid(frame: &[u8]) -> Result<(), String> {
    let (ether_type, at) = layers::network(frame).ok_or("no whole ethernet header")?;
    if !matches!(ether_type, IPV4 | IPV6) {
        return Err(format!("not ip: eth type {ether_type:#06x}"));
    }
    let packet = IpPacket::read(&frame[at..])?;
    if (packet.family == Family::V4) != (ether_type == IPV4) {
        return Err(format!("{} in a frame of eth type {ether_type:#06x}", packet.family));
    }
    if packet.missing > 0 {
        return Err(format!("{} bytes of the packet are missing", packet.missing));
    }
    verify_packet(&packet, "")
}

/// Verifies a packet; names are given with `prefix` before them.
fn verify_packet(packet: &IpPacket<'_>, prefix: &str) -> Result<(), String> {
    if packet.family == Family::V4 {
        verify(&format!("{prefix}ip checksum"), packet.header, 10, Sum::default())?;
    }
    if packet.fragment.is_some() || packet.missing > 0 {
        return Ok(());
    }
    let pseudo_header = pseudo_header(packet)?;
    let (protocol, checksum_at, before) = match (packet.family, packet.protocol) {
        (_, TCP) => ("tcp", 16, pseudo_header),
        (_, UDP) => ("udp", 6, pseudo_header),
        (Family::V4, ICMP) => ("icmp", 2, Sum::default()),
        (Family::V6, ICMPV6) => ("icmpv6", 2, pseudo_header),
        (family, other) => return Err(format!("{prefix}protocol {other} over {family} is none that is known")),
    };
    let segment = packet.segment;
    let stored = segment.get(checksum_at..checksum_at + 2);
    let stored = stored.ok_or_else(|| format!("{} bytes are no whole {protocol} header", segment.len()))?;
    if packet.protocol == UDP && stored == [0, 0] {
        return match packet.family {
            Family::V4 => Ok(()),
            Family::V6 => Err(format!("{prefix}udp checksum is zero over ipv6")),
        };
    }
    verify(&format!("{prefix}{protocol} checksum"), segment, checksum_at, before)?;
    let carries_quote = matches!(protocol, "icmp" | "icmpv6")
        && layers::quotes_a_packet(packet.family, segment[0])
        && prefix.is_empty();
    if carries_quote {
        verify_error(packet.family, segment)?;
    }
    Ok(())
}

fn pseudo_header(packet: &IpPacket<'_>) -> Result<Sum, String> {
    let length = u32::try_from(packet.segment.len()).map_err(|error| error.to_string())?;
    Ok(Sum::default().plus_pseudo_header(packet.source, packet.destination, packet.protocol, length))
}

/// What an ICMP error carries. A quote that ends within its headers has nothing to verify.
fn verify_error(family: Family, message: &[u8]) -> Result<(), String> {
    let (quote, extension) = layers::quote_and_extension(family, message);
    if extension.len() >= 4 {
        verify("icmp extension checksum", extension, 2, Sum::default())?;
    }
    match IpPacket::read(quote) {
        Ok(quoted) => verify_packet(&quoted, "quoted "),
        Err(_) => Ok(()),
    }
}

/// Compares the checksum stored in `bytes` with a new one over `before` and `bytes`.
fn verify(name: &str, bytes: &[u8], at: usize, before: Sum) -> Result<(), String> {
    let (head, tail) = (&bytes[..at], &bytes[at + 2..]);
    let computed = before.plus(head).plus(tail).checksum();
    let stored = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // 0x0000 and 0xffff are both zero in one's complement; UDP sends the latter (RFC 768).
    if stored == computed || (computed == 0 && stored == 0xffff) {
        Ok(())
    } else {
        Err(format!("{name} is {stored:#06x}, should be {computed:#06x}"))
    }
}
