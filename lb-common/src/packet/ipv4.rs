//! The IPv4 header (RFC 791, section 3.1).

use network_types::ip::Ipv4Hdr;

use super::{Even, Extent, Frame, Ip, Network, ether_type, quote::is_error_v4};
use crate::{address::V4, flow::protocol, verdict::PassReason};

/// The "more fragments" bit.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of 8 bytes.
const OFFSET: u16 = 0x1fff;
/// Where the identification stands in the header.
const ID: usize = 4;

impl Ip for V4 {
    const ETHER_TYPE: u16 = ether_type::IPV4;
    const ICMP: u8 = protocol::ICMP;

    #[inline(always)]
    fn network<F: Frame + ?Sized>(frame: &F, l3: usize, extent: Extent) -> Result<Network<Self>, PassReason> {
        let Even(header): &Even<Ipv4Hdr> = frame.view(l3).ok_or(PassReason::Malformed)?;
        let header_length = usize::from(header.vihl & 0x0f) * 4;
        let length = u16::from_be_bytes(header.tot_len);
        if header.vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN || usize::from(length) < header_length {
            return Err(PassReason::Malformed);
        }
        if matches!(extent, Extent::Whole) && !frame.reaches(l3 + usize::from(length)) {
            return Err(PassReason::Malformed);
        }
        let fragment = u16::from_be_bytes(header.frags);
        #[expect(clippy::cast_possible_truncation, reason = "60 bytes at most")]
        let payload = length - header_length as u16;
        Ok(Network {
            source: Self::from_wire(header.src_addr),
            destination: Self::from_wire(header.dst_addr),
            l3,
            l4: l3 + header_length,
            id_at: l3 + ID,
            id: u32::from(u16::from_be_bytes(header.id)),
            length,
            payload,
            fragment_offset: (fragment & OFFSET) * 8,
            more_fragments: fragment & MORE_FRAGMENTS != 0,
            protocol: header.proto,
            ttl: header.ttl,
        })
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        is_error_v4(kind)
    }
}
