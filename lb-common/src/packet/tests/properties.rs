//! Whatever the bytes are: nothing that is read lies outside of the frame.

use proptest::prelude::*;

use super::*;

/// Reads all that can be read of a frame, and checks that it lies within.
fn check<A: Ip>(frame: &[u8], link: &Link) {
    let Ok(network) = A::network(frame, link.l3, Extent::Whole) else {
        return;
    };
    let end = link.l3 + usize::from(network.length);
    assert!(end <= frame.len(), "the packet ends within the frame");
    assert_eq!(
        network.l4 + usize::from(network.payload),
        end,
        "headers and payload are the packet"
    );
    assert!(network.id_at + 2 <= network.l4, "the identification stands in a header");
    if network.is_later_fragment() {
        return;
    }
    if let Ok(packet) = Packet::read(frame, IFINDEX, link, &network) {
        let checksum = if packet.key.protocol == protocol::TCP {
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        };
        assert!(
            packet.l4 + checksum + 2 <= end,
            "the L4 checksum lies within the packet"
        );
        let covered = packet.l4 + usize::from(packet.l4_length);
        assert!(
            packet.more_fragments || covered <= end,
            "what the checksum covers is there"
        );
    }
    if let Ok(quote) = Quote::read(frame, &network) {
        assert!(
            network.l4 + ICMP_HEADER <= quote.l3,
            "the quote stands behind the ICMP header"
        );
        assert!(
            quote.l3 < quote.l4 && quote.l4 + 8 <= end,
            "the ports lie within the packet"
        );
        assert!(quote.checksum_at + 2 <= end, "the checksum lies within the packet");
    }
}

fn check_frame(frame: &[u8]) {
    let Ok(link) = Link::read(frame) else { return };
    assert!(link.l3 <= frame.len(), "the link header lies within the frame");
    check::<V4>(frame, &link);
    check::<V6>(frame, &link);
}

/// Bytes that look like headers more often than by chance: those that decide anything are drawn from what they may be.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let link = prop_oneof![
        Just(vec![0x08, 0x00]),
        Just(vec![0x86, 0xdd]),
        Just(vec![0x81, 0x00, 0, 5, 0x08, 0x00]),
        Just(vec![0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6, 0x86, 0xdd]),
    ];
    let kind = prop::sample::select(vec![0_u8, 1, 6, 17, 43, 44, 58, 60]);
    let first = prop_oneof![0x45_u8..=0x4f, Just(0x60)];
    let rest = prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => 0..=255_u8, 1 => kind.clone()], 0..160);
    (link, first, kind, any::<u8>(), rest).prop_map(|(link, first, kind, length, mut rest)| {
        rest.resize(rest.len().max(40), 0);
        rest[0] = first;
        let (length_at, kind_at) = if first == 0x60 { (4, 6) } else { (2, 9) };
        rest[length_at] = 0;
        rest[length_at + 1] = length;
        rest[kind_at] = kind;
        [&RECEIVER[..], &SENDER, &link, &rest].concat()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_within_their_bounds(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_frame(&bytes);
    }

    #[test]
    fn plausible_bytes_are_read_within_their_bounds(bytes in plausible()) {
        check_frame(&bytes);
    }

    /// What may be quoted is cut anywhere.
    #[test]
    fn cut_frames_are_read_within_their_bounds(bytes in plausible(), end: prop::sample::Index) {
        check_frame(&bytes[..end.index(bytes.len() + 1)]);
    }
}
