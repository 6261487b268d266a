//! Frames cut into fragments, as a sender or router would (RFC 791, section 3.2; RFC 8200, section 4.5).

use std::{mem, ops::Range};

use crate::{checksum::Sum, layers, names::Family};

/// Number of the fragment header of IPv6.
const FRAGMENT_HEADER: u8 = 44;

/// The fragments of a frame, cut at these offsets of what IP carries: multiples of 8, ascending, none of them 0. Everything above IP,
/// its checksum included, is spread over them as it stands; a trailer is left out. IPv4 has room for 16 bits of the identification.
///
/// # Panics
///
/// When the frame is no whole IP packet, is a fragment already, or an offset is not one.
pub fn fragments(frame: &[u8], offsets: &[usize], id: u32) -> Vec<Vec<u8>> {
    let end = Cut::of(frame).content.len();
    let starts = [0].into_iter().chain(offsets.iter().copied());
    let ends = offsets.iter().copied().chain([end]);
    starts
        .zip(ends)
        .map(|(start, stop)| fragment_of(frame, start..stop, stop != end, id))
        .collect()
}

/// The fragments of a frame, each as large as fits into `mtu` bytes of IP packet.
///
/// # Panics
///
/// As of [`fragments`], and when nothing fits.
pub fn fragments_for_mtu(frame: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let cut = Cut::of(frame);
    let room = mtu.saturating_sub(cut.header.len() + cut.extra()) / 8 * 8;
    assert!(room > 0, "no fragment fits into {mtu} bytes");
    let offsets: Vec<usize> = (room..cut.content.len()).step_by(room).collect();
    fragments(frame, &offsets, id)
}

/// One fragment of a frame: these bytes of what IP carries, with more to come or not. For fragments that overlap, or lie.
///
/// # Panics
///
/// As of [`fragments`].
pub fn fragment_of(frame: &[u8], range: Range<usize>, more: bool, id: u32) -> Vec<u8> {
    let cut = Cut::of(frame);
    assert_eq!(range.start % 8, 0, "fragments begin at multiples of 8");
    let offset = u16::try_from(range.start / 8).expect("an offset of 13 bits");
    let header = match cut.family {
        Family::V4 => cut.ipv4_header(range.len(), offset, more, id),
        Family::V6 => cut.ipv6_header(range.len(), offset, more, id),
    };
    [cut.link, &header, &cut.content[range]].concat()
}

/// A frame with what every fragment repeats, and what is spread over them.
struct Cut<'a> {
    family: Family,
    /// Ethernet header and tags.
    link: &'a [u8],
    /// The IPv4 header, or the IPv6 header with what stands before a fragment header.
    header: &'a [u8],
    /// Where in `header` the number of what follows stands; of IPv6 alone.
    next_header_at: usize,
    content: &'a [u8],
}

impl<'a> Cut<'a> {
    fn of(frame: &'a [u8]) -> Self {
        let (_, at) = layers::network(frame).expect("a frame with an IP packet");
        let bytes = &frame[at..];
        let packet = layers::IpPacket::read(bytes).expect("a whole IP packet");
        assert_eq!(packet.fragment, None, "a packet that is no fragment yet");
        let end = packet.header.len() + packet.segment.len();
        let (header_length, next_header_at) = match packet.family {
            Family::V4 => (packet.header.len(), 9),
            Family::V6 => per_fragment_part(packet.header),
        };
        Self {
            family: packet.family,
            link: &frame[..at],
            header: &bytes[..header_length],
            next_header_at,
            content: &bytes[header_length..end],
        }
    }

    /// Bytes that a fragment's header has beyond the packet's own.
    const fn extra(&self) -> usize {
        match self.family {
            Family::V4 => 0,
            Family::V6 => 8,
        }
    }

    fn ipv4_header(&self, length: usize, offset: u16, more: bool, id: u32) -> Vec<u8> {
        let mut header = self.header[..20].to_vec();
        header.extend(match offset {
            0 => self.header[20..].to_vec(),
            _ => copied_options(&self.header[20..]),
        });
        let words = u8::try_from(header.len() / 4).expect("a header of 60 bytes at most");
        header[0] = 0x40 | words;
        let total = u16::try_from(header.len() + length).expect("an IP packet");
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
        let flags = offset & 0x1fff | u16::from(more) << 13;
        header[6..8].copy_from_slice(&flags.to_be_bytes());
        header[10..12].fill(0);
        let checksum = Sum::default().plus(&header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_header(&self, length: usize, offset: u16, more: bool, id: u32) -> Vec<u8> {
        let mut header = self.header.to_vec();
        let next = mem::replace(&mut header[self.next_header_at], FRAGMENT_HEADER);
        let place = offset << 3 | u16::from(more);
        header.extend([next, 0]);
        header.extend(place.to_be_bytes());
        header.extend(id.to_be_bytes());
        let payload = u16::try_from(header.len() - 40 + length).expect("an IP packet");
        header[4..6].copy_from_slice(&payload.to_be_bytes());
        header
    }
}

/// The part of IPv6 headers that stands in every fragment, up to a routing header, else up to hop-by-hop options (RFC 8200, section
/// 4.5): its length, and where in it the number of what follows stands.
fn per_fragment_part(header: &[u8]) -> (usize, usize) {
    const HOP_BY_HOP: u8 = 0;
    const DESTINATION: u8 = 60;
    const ROUTING: u8 = 43;
    let (mut part, mut next, mut at) = ((40, 6), header[6], 40);
    while matches!(next, HOP_BY_HOP | DESTINATION | ROUTING) {
        let length = 8 + 8 * usize::from(header[at + 1]);
        if next != DESTINATION {
            part = (at + length, at);
        }
        (next, at) = (header[at], at + length);
    }
    part
}

/// The options that every fragment repeats, those with the highest bit set (RFC 791, section 3.1), padded to a multiple of four.
fn copied_options(options: &[u8]) -> Vec<u8> {
    let (mut copied, mut rest) = (Vec::new(), options);
    // 0 ends the list, 1 is the one option of a single byte.
    while let Some(kind) = rest.first().filter(|kind| **kind != 0) {
        let length = match rest {
            [1, ..] => 1,
            [_, length, ..] => usize::from(*length).clamp(2, rest.len()),
            _ => rest.len(),
        };
        if kind & 0x80 != 0 {
            copied.extend(&rest[..length]);
        }
        rest = &rest[length..];
    }
    copied.resize(copied.len().next_multiple_of(4), 0);
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, Tag};

    /// What IP carries of each fragment, behind headers of this length.
    fn contents(fragments: &[Vec<u8>], headers: usize) -> Vec<u8> {
        fragments
            .iter()
            .flat_map(|fragment| fragment[headers..].to_vec())
            .collect()
    }

    #[test]
    fn ipv4_fragments_hold_the_datagram_in_order() {
        let frame = Packet::udp().payload(&[7; 100]).trailer(&[1; 4]).build();
        let parts = fragments(&frame, &[8, 64], 0xabcd);
        let header = |part: usize| &parts[part][14..34];
        assert_eq!(contents(&parts, 34), frame[34..142]);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [42, 90, 78]);
        assert_eq!(header(0)[2..8], [0, 28, 0xab, 0xcd, 0x20, 0]);
        assert_eq!(header(1)[2..8], [0, 76, 0xab, 0xcd, 0x20, 1]);
        assert_eq!(header(2)[2..8], [0, 64, 0xab, 0xcd, 0, 8]);
        for part in &parts {
            assert_eq!(Sum::default().plus(&part[14..34]).checksum(), 0);
        }
    }

    #[test]
    fn ipv6_fragment_header_stands_behind_hop_by_hop_options_and_before_the_rest() {
        use crate::packet::Extension::{Destination, HopByHop};
        let packet = Packet::udp().over(Family::V6).tags(&[Tag::customer(7)]);
        let frame = packet
            .extensions(&[HopByHop(0), Destination(1)])
            .payload(&[7; 50])
            .build();
        let parts = fragments(&frame, &[40], 0x0102_0304);
        let headers = 18 + 40 + 8 + 8;
        assert_eq!(contents(&parts, headers), frame[18 + 40 + 8..]);
        // The hop-by-hop options name the fragment header, and that the destination options.
        assert_eq!(parts[0][18 + 4..18 + 8], [0, 8 + 8 + 40, 0, 63]);
        assert_eq!(parts[0][18 + 40..][..2], [44, 0]);
        assert_eq!(parts[0][18 + 48..headers], [60, 0, 0, 1, 1, 2, 3, 4]);
        assert_eq!(parts[1][18 + 48..headers], [60, 0, 0, 40, 1, 2, 3, 4]);
    }

    #[test]
    fn fragments_fill_the_mtu_in_units_of_eight_bytes() {
        for (family, headers) in [(Family::V4, 20), (Family::V6, 48)] {
            let frame = Packet::udp().over(family).payload(&[7; 3000]).build();
            let parts = fragments_for_mtu(&frame, 1283, 1);
            let sizes: Vec<usize> = parts.iter().map(|part| part.len() - 14 - headers).collect();
            let room = (1283 - headers) / 8 * 8;
            assert_eq!(sizes, [room, room, 3008 - 2 * room]);
        }
    }

    #[test]
    fn options_are_repeated_if_they_are_marked_so() {
        // No operation, router alert (marked), record route.
        let options = [1, 0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0];
        assert_eq!(copied_options(&options), [0x94, 4, 0, 0]);
        let frame = Packet::udp().ip_options(&options).payload(&[7; 50]).build();
        let parts = fragments(&frame, &[16], 1);
        assert_eq!(parts[0][14], 0x48);
        assert_eq!(parts[1][14], 0x46);
        assert_eq!(contents(&parts[1..], 14 + 24), frame[14 + 32 + 16..]);
    }
}
