//! The IPv6 header and its extension headers (RFC 8200, sections 3 and 4).

use network_types::ip::Ipv6Hdr;

use super::{Even, Extent, Frame, Ip, MAX_OFFSET, Network, ether_type, quote::is_error_v6};
use crate::{address::V6, flow::protocol, limits::MAX_EXTENSION_HEADERS, verdict::PassReason};

/// Numbers of the extension headers that are followed. Others end the chain: what is behind them can't be read (ESP), or would not
/// survive a translation (AH).
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// Length of the header before its extensions.
const HEADER: u16 = 40;
const _: () = assert!(HEADER as usize == Ipv6Hdr::LEN);

/// Where the L4 header begins at most: what is read and written behind it stays below [`MAX_OFFSET`]. A chain of headers that is longer is
/// not followed.
const MAX_L4: usize = MAX_OFFSET - 256;

/// What the extension headers say.
struct Extensions {
    /// Length of all of them, in bytes.
    length: usize,
    id_at: usize,
    id: u32,
    fragment_offset: u16,
    more_fragments: bool,
    protocol: u8,
}

impl Ip for V6 {
    const ETHER_TYPE: u16 = ether_type::IPV6;
    const ICMP: u8 = protocol::ICMP_V6;

    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, l3: usize, extent: Extent) -> Result<Network<Self>, PassReason> {
        let Even(header): &Even<Ipv6Hdr> = frame.view(l3).ok_or(PassReason::Malformed)?;
        let payload = u16::from_be_bytes(header.payload_len);
        // A payload length of 0 announces a jumbogram (RFC 2675), which no Ethernet carries.
        let Some(length) = payload.checked_add(HEADER) else {
            return Err(PassReason::Malformed);
        };
        if header.vcf[0] >> 4 != 6 || payload == 0 {
            return Err(PassReason::Malformed);
        }
        if matches!(extent, Extent::Whole) && !frame.reaches(l3 + usize::from(length)) {
            return Err(PassReason::Malformed);
        }
        let (source, destination) = (Self::from_wire(header.src_addr), Self::from_wire(header.dst_addr));
        let ttl = header.hop_limit;
        let extensions = follow(frame, l3 + Ipv6Hdr::LEN, header.next_hdr)?;
        #[expect(clippy::cast_possible_truncation, reason = "headers end below `MAX_OFFSET`")]
        let Some(payload) = payload.checked_sub(extensions.length as u16) else {
            return Err(PassReason::Malformed);
        };
        Ok(Network {
            source,
            destination,
            l3,
            l4: frame.forget(l3 + Ipv6Hdr::LEN + extensions.length),
            id_at: extensions.id_at,
            id: extensions.id,
            length,
            payload,
            fragment_offset: extensions.fragment_offset,
            more_fragments: extensions.more_fragments,
            protocol: extensions.protocol,
            ttl,
        })
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        is_error_v6(kind)
    }
}

/// Follows the chain of extension headers that begins at `start` with a header of the kind `first`.
#[inline(always)]
fn follow<F: Frame + ?Sized>(frame: &F, start: usize, first: u8) -> Result<Extensions, PassReason> {
    let mut at = start;
    let mut found = Extensions {
        length: 0,
        id_at: 0,
        id: 0,
        fragment_offset: 0,
        more_fragments: false,
        protocol: first,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        let kind = found.protocol;
        if !matches!(
            kind,
            extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT | extension::DESTINATION
        ) {
            break;
        }
        let Even(header): &Even<[u8; 8]> = frame.view(at).ok_or(PassReason::Malformed)?;
        found.protocol = header[0];
        if kind == extension::FRAGMENT {
            let [_, _, high, low, a, b, c, d] = *header;
            let word = u16::from_be_bytes([high, low]);
            found.id_at = at + 4;
            found.id = u32::from_be_bytes([a, b, c, d]);
            found.fragment_offset = word & !7;
            found.more_fragments = word & 1 != 0;
            at += 8;
            if found.fragment_offset != 0 {
                // What follows is a piece of the payload.
                break;
            }
            continue;
        }
        // The pseudo header of a packet that is still on its source route has another destination (RFC 8200, section 8.1).
        let [_, length, _, segments_left, ..] = *header;
        if kind == extension::ROUTING && segments_left != 0 {
            return Err(PassReason::ExtensionHeaders);
        }
        at += (usize::from(length) + 1) * 8;
    }
    if found.fragment_offset == 0
        && matches!(
            found.protocol,
            extension::HOP_BY_HOP | extension::ROUTING | extension::FRAGMENT | extension::DESTINATION
        )
        || at > MAX_L4
    {
        return Err(PassReason::ExtensionHeaders);
    }
    found.length = at - start;
    Ok(found)
}
