//! Fragments go where the first one of their packet goes, whatever their order, and no other packet gets mixed up with it (RFC 4787,
//! REQ-14; RFC 6864).

use std::net::IpAddr;

use aya::maps::RingBuf;
use lb_common::{maps, role::Roles, service::Forwarding};
use lb_tests::{
    checksum::Sum,
    diff::{assert_packet_eq, checksums_valid},
    layers::IpPacket,
    names::{BACKEND_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC},
    packet::{ETHERNET_LENGTH, Extension, Packet, Tag, fragment_of, fragments, fragments_for_mtu},
    program::Action,
};
use xlb::{
    dataplane::{Dataplane as _, aya::PacketId},
    expiry,
};

use crate::{
    exchange::{self, Exchange},
    fixture::{Fixture, IFINDEX, XDP_PROGRAMS, from_client},
};

/// A datagram and a segment of 4 KB.
fn large_packets() -> [Packet; 2] {
    let payload: Vec<u8> = (0..=u8::MAX).cycle().map(|byte| byte ^ 0x5a).take(4_097).collect();
    [Packet::udp().payload(&payload), Packet::tcp().payload(&payload)]
}

/// Runs fragments in this order; all must be forwarded.
#[track_caller]
fn all_forwarded(fixture: &mut Fixture, fragments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    fragments.iter().map(|fragment| fixture.forwarded(fragment)).collect()
}

/// Runs fragments that must leave as these.
#[track_caller]
fn check(fixture: &mut Fixture, arriving: &[Vec<u8>], leaving: &[Vec<u8>]) {
    assert_eq!(arriving.len(), leaving.len());
    for (arriving, leaving) in arriving.iter().zip(leaving) {
        assert_packet_eq(&fixture.forwarded(arriving), leaving);
    }
}

/// The packet that a receiver puts together of fragments without VLAN tags and without extension headers of their own.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<(usize, &[u8])> = fragments
        .iter()
        .map(|fragment| {
            let packet = IpPacket::read(&fragment[ETHERNET_LENGTH..]).expect("an IP packet");
            let place = packet.fragment.expect("a fragment");
            (8 * usize::from(place.offset), packet.segment)
        })
        .collect();
    pieces.sort_by_key(|(offset, _)| *offset);
    let mut content: Vec<u8> = Vec::new();
    for (offset, piece) in pieces {
        assert_eq!(offset, content.len(), "no gap and no overlap");
        content.extend(piece);
    }
    let first = &fragments[0];
    let mut frame = first[..ETHERNET_LENGTH].to_vec();
    let packet = IpPacket::read(&first[ETHERNET_LENGTH..]).expect("an IP packet");
    let mut header = packet.header.to_vec();
    let length = |bytes: usize| u16::try_from(bytes).expect("a packet").to_be_bytes();
    match packet.family {
        Family::V4 => {
            let total = length(header.len() + content.len());
            header[2..4].copy_from_slice(&total);
            // More fragments.
            header[6] &= !0x20;
            header[10..12].fill(0);
            let checksum = Sum::default().plus(&header).checksum();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        Family::V6 => {
            header.truncate(40);
            header[4..6].copy_from_slice(&length(content.len()));
            header[6] = packet.protocol;
        }
    }
    frame.extend(header);
    frame.extend(content);
    frame
}

/// The identification of a fragment without VLAN tags and extension headers before its own.
fn identification(fragment: &[u8], family: Family) -> Vec<u8> {
    match family {
        Family::V4 => fragment[ETHERNET_LENGTH + 4..][..2].to_vec(),
        Family::V6 => fragment[ETHERNET_LENGTH + 44..][..4].to_vec(),
    }
}

/// What waits in the buffer: interfaces and frames. It is then empty.
fn held(fixture: &mut Fixture) -> Vec<(u32, Vec<u8>)> {
    let map = fixture.dataplane.ebpf_mut().map_mut(maps::HELD).expect("the map");
    let mut ring = RingBuf::try_from(map).expect("a ring buffer");
    let mut fragments = Vec::new();
    while let Some(record) = ring.next() {
        let number = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let length = usize::try_from(number(4)).expect("a length");
        fragments.push((number(0), record[8..8 + length].to_vec()));
    }
    fragments
}

/// Asserts what waits in the buffer, and empties it.
#[track_caller]
fn expect_held(fixture: &mut Fixture, expected: &[Vec<u8>]) {
    let held = held(fixture);
    assert_eq!(held.len(), expected.len(), "fragments that wait");
    for ((ifindex, frame), expected) in held.iter().zip(expected) {
        assert_eq!(*ifindex, IFINDEX);
        assert_packet_eq(frame, expected);
    }
}

fn set_role(fixture: &mut Fixture, address: IpAddr, role: u32) {
    fixture.dataplane.set_roles(address, Roles(role)).expect("a role");
}

#[test]
fn fragments_in_order_leave_as_the_fragments_of_the_translated_packet() {
    exchange::each(|fixture, exchange| {
        for (packet, id) in large_packets().into_iter().zip(0xabc0..) {
            let cut = |packet: Packet| fragments_for_mtu(&packet.build(), 1500, id);
            let (arriving, leaving) = (
                cut(exchange.request(packet.clone())),
                cut(exchange.request_leaving(packet.clone())),
            );
            check(fixture, &arriving, &leaving);
            checksums_valid(&reassembled(&leaving)).expect("the builder and the receiver agree");
            fixture.expect_counts(&[("forward", 3)]);

            check(
                fixture,
                &cut(exchange.reply(packet.clone())),
                &cut(exchange.reply_leaving(packet)),
            );
            fixture.expect_counts(&[("reply", 3)]);
        }
    });
}

/// Later fragments in any order, also behind the last one.
#[test]
fn any_number_of_fragments_follows_the_first() {
    exchange::each(|fixture, exchange| {
        for count in 2..=9_usize {
            for packet in [Packet::udp(), Packet::tcp()] {
                let packet = packet.payload(&vec![7; 400 * count - 3]);
                let offsets: Vec<usize> = (1..count).map(|number| number * 400).collect();
                let id = u32::try_from(count).expect("a number");
                let mut arriving = fragments(&exchange.request(packet.clone()).build(), &offsets, id);
                let mut leaving = fragments(&exchange.request_leaving(packet).build(), &offsets, id);
                arriving[1..].reverse();
                leaving[1..].reverse();
                check(fixture, &arriving, &leaving);
                fixture.expect_counts(&[("forward", count as u64)]);
            }
        }
    });
}

/// What every fragment repeats, or has of its own, is nobody's business.
#[test]
fn header_fields_and_options_of_fragments_stay() {
    exchange::each(|fixture, exchange| {
        // No operation, then router alert, which fragments repeat.
        let packet = Packet::udp()
            .payload(&[7; 300])
            .dscp(46)
            .ecn(3)
            .flow_label(0xa_bcde)
            .ip_options(&[1, 1, 1, 1, 0x94, 4, 0, 0])
            .extensions(&[Extension::HopByHop(1)]);
        let cut = |packet: Packet| {
            let mut fragments = fragments(&packet.build(), &[64, 128], 0xffff);
            if exchange.family == Family::V4 {
                fragments.iter_mut().for_each(|fragment| set_dont_fragment(fragment));
            }
            fragments
        };
        check(
            fixture,
            &cut(exchange.request(packet.clone())),
            &cut(exchange.request_leaving(packet)),
        );
        fixture.expect_counts(&[("forward", 3)]);
    });
}

/// Some senders say of a fragment that it may not be cut up further.
fn set_dont_fragment(fragment: &mut [u8]) {
    let header = &mut fragment[ETHERNET_LENGTH..];
    let length = usize::from(header[0] & 0x0f) * 4;
    header[6] |= 0x40;
    header[10..12].fill(0);
    let checksum = Sum::default().plus(&header[..length]).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn two_clients_with_the_same_identification_are_not_mixed_up() {
    exchange::each(|fixture, exchange| {
        let second_client = exchange.family.client(2);
        let [packet, _] = large_packets();
        let second_packet = Packet::udp().payload(&[0x77; 4_097]);
        let cut = |packet: Packet| fragments_for_mtu(&packet.build(), 1500, 0x4242);
        let first = cut(exchange.request(packet.clone()));
        let second_way = exchange.at_port(exchange.port + 1);
        let second = cut(second_way.request(second_packet.clone()).source(second_client));
        let (mut first_out, mut second_out) = (Vec::new(), Vec::new());
        for (first, second) in first.iter().zip(&second) {
            first_out.push(fixture.forwarded(first));
            second_out.push(fixture.forwarded(second));
        }
        fixture.expect_counts(&[("forward", 6)]);

        assert_eq!(first_out, cut(exchange.request_leaving(packet)));
        let id = identification(&second_out[0], exchange.family);
        for fragment in &second_out {
            assert_eq!(
                identification(fragment, exchange.family),
                id,
                "one packet, one identification"
            );
        }
        if exchange.hides_client() {
            assert_ne!(id, identification(&first_out[0], exchange.family));
        } else {
            let leaving = second_way.request_leaving(second_packet).source(second_client);
            assert_eq!(
                second_out,
                cut(leaving),
                "different addresses, no need for another identification"
            );
            return;
        }
        let mut whole = reassembled(&second_out);
        checksums_valid(&whole).expect("the second client's datagram");
        if exchange.family == Family::V4 {
            // All but the identification is as it must be.
            let leaving = second_way.request_leaving(second_packet.dont_fragment(false)).build();
            whole[ETHERNET_LENGTH + 4..][..2].copy_from_slice(&leaving[ETHERNET_LENGTH + 4..][..2]);
            whole[ETHERNET_LENGTH + 10..][..2].copy_from_slice(&leaving[ETHERNET_LENGTH + 10..][..2]);
            assert_packet_eq(&whole, &leaving);
        } else {
            assert_packet_eq(&whole, &second_way.request_leaving(second_packet).build());
        }
    });
}

#[test]
fn first_fragment_that_contradicts_another_changes_nothing() {
    exchange::each(|fixture, exchange| {
        let [packet, _] = large_packets();
        let cut = |packet: Packet| fragments_for_mtu(&packet.build(), 1500, 0x0101);
        let arriving = cut(exchange.request(packet.clone()));
        let leaving = cut(exchange.request_leaving(packet.clone()));
        let intruder = cut(exchange.at_port(exchange.port + 1).request(packet));
        check(fixture, &arriving[..1], &leaving[..1]);
        fixture.counts();
        fixture.dropped(&intruder[0], "fragment_conflict");
        // The first one once more, as a network that duplicates packets delivers it.
        check(fixture, &arriving, &leaving);
        fixture.expect_counts(&[("forward", 3)]);
    });
}

/// RFC 1858, section 3, and RFC 3128: what was judged must be what arrives.
#[test]
fn fragment_that_would_overwrite_a_tcp_header_is_dropped() {
    exchange::each(|fixture, exchange| {
        let (segment, datagram) = (Packet::tcp().payload(&[7; 1_000]), Packet::udp().payload(&[7; 1_000]));
        let id = u32::from(exchange.port);
        let frame = exchange.request(segment.clone()).build();
        let leaving = exchange.request_leaving(segment).build();
        let first = fragment_of(&frame, 0..1_000, true, id);
        assert_packet_eq(&fixture.forwarded(&first), &fragment_of(&leaving, 0..1_000, true, id));
        fixture.counts();
        for start in [8, 16] {
            for more in [true, false] {
                fixture.dropped(&fragment_of(&frame, start..1_000, more, id), "fragment_conflict");
            }
        }
        // Behind the header, overlapping or not, the receiver decides. A UDP header ends where a second fragment may begin.
        let later = |frame: &[u8]| fragment_of(frame, 24..1_000, true, id);
        assert_packet_eq(&fixture.forwarded(&later(&frame)), &later(&leaving));
        let frame = exchange.request(datagram.clone()).build();
        let leaving = exchange.request_leaving(datagram).build();
        check(
            fixture,
            &fragments(&frame, &[8], id + 1),
            &fragments(&leaving, &[8], id + 1),
        );
        fixture.expect_counts(&[("forward", 3)]);
    });
}

#[test]
fn first_fragment_that_ends_within_its_header_is_never_forwarded() {
    exchange::each(|fixture, exchange| {
        let [datagram, segment] = large_packets();
        let segment = segment.tcp_options(&[1; 12]);
        for length in [0, 8, 16, 24] {
            let tiny = fragment_of(&exchange.request(segment.clone()).build(), 0..length, true, 0x0303);
            // IPv6 has a fragment header at least, so that its payload is not empty.
            fixture.passed(&tiny, "malformed");
        }
        fixture.passed(
            &fragment_of(&exchange.request(datagram).build(), 0..0, true, 0x0303),
            "malformed",
        );
        let later = fragment_of(&exchange.request(segment).build(), 32..800, true, 0x0303);
        fixture.passed(&later, "fragment");
    });
}

#[test]
fn fragments_that_come_too_early_wait_for_the_agent() {
    exchange::each(|fixture, exchange| {
        let [packet, _] = large_packets();
        let cut = |packet: Packet, id| fragments_for_mtu(&packet.build(), 1500, id);
        let id = u32::from(exchange.port);
        let request = cut(exchange.request(packet.clone()), id);
        let reply = cut(exchange.reply(packet.clone()), id + 1);
        let ways = [
            (&request, exchange.vip(), Roles::VIP),
            (&reply, exchange.family.backend(1), Roles::BACKEND),
            (&reply, exchange.peer(), Roles::SNAT),
        ];
        for (fragments, address, role) in ways {
            fixture.passed(&fragments[1], "fragment");
            set_role(fixture, address, role);
            for fragment in &fragments[1..] {
                fixture.dropped(fragment, "fragment_held");
            }
            expect_held(fixture, &fragments[1..]);
            fixture.dataplane.remove_roles(address).expect("the role is removed");
        }
        // Once the first one has come, the agent shows them again.
        check(fixture, &request, &cut(exchange.request_leaving(packet.clone()), id));
        check(fixture, &reply, &cut(exchange.reply_leaving(packet), id + 1));
        fixture.expect_counts(&[("forward", 3), ("reply", 3)]);
    });
}

#[test]
fn fragments_wait_with_their_tags_and_without_padding() {
    exchange::each(|fixture, exchange| {
        set_role(fixture, exchange.vip(), Roles::VIP);
        let packet = Packet::udp().payload(&[7; 70]);
        for tags in [
            &[][..],
            &[Tag::customer(7).priority(3)],
            &[Tag::service(1), Tag::customer(2)],
        ] {
            let frame = exchange.request(packet.clone()).tags(tags).build();
            let last = fragment_of(&frame, 64..78, false, 0x0d0d);
            let mut padded = last.clone();
            padded.extend([0; 20]);
            fixture.dropped(&last, "fragment_held");
            fixture.dropped(&padded, "fragment_held");
            expect_held(fixture, &[last.clone(), last]);
        }
        fixture
            .dataplane
            .remove_roles(exchange.vip())
            .expect("the role is removed");
    });
}

#[test]
fn roles_of_other_addresses_hold_nothing() {
    exchange::each(|fixture, exchange| {
        let [packet, _] = large_packets();
        let fragments = fragments_for_mtu(&exchange.request(packet).build(), 1500, 0x0505);
        let others = [
            (exchange.vip(), Roles::BACKEND),
            (exchange.family.client(1), Roles::VIP | Roles::SNAT),
            (exchange.family.backend(1), Roles::BACKEND),
        ];
        for (address, role) in others {
            set_role(fixture, address, role);
            fixture.passed(&fragments[1], "fragment");
            fixture.dataplane.remove_roles(address).expect("the role is removed");
        }
        expect_held(fixture, &[]);
    });
}

#[test]
fn fragment_too_long_to_wait_is_lost() {
    exchange::each(|fixture, exchange| {
        set_role(fixture, exchange.vip(), Roles::VIP);
        let [packet, _] = large_packets();
        let frame = exchange.request(packet).build();
        let headers = ETHERNET_LENGTH
            + match exchange.family {
                Family::V4 => 20,
                Family::V6 => 48,
            };
        let of_length = |length: usize| fragment_of(&frame, 800..800 + length - headers, false, 0x0606);
        let longest = of_length(2048);
        fixture.dropped(&longest, "fragment_held");
        expect_held(fixture, &[longest]);
        fixture.dropped(&of_length(2049), "fragment_lost");
        expect_held(fixture, &[]);
        fixture
            .dataplane
            .remove_roles(exchange.vip())
            .expect("the role is removed");
    });
}

#[test]
fn fragments_are_lost_while_there_is_no_room_to_wait() {
    let mut fixture = Fixture::with_exchanges();
    let exchange = Exchange::all().next().expect("an exchange");
    set_role(&mut fixture, exchange.vip(), Roles::VIP);
    let [packet, _] = large_packets();
    let fragment = &fragments_for_mtu(&exchange.request(packet).build(), 1500, 0x0707)[1];
    for _ in 0..1_000 {
        assert_eq!(fixture.run(fragment).action, Action::Drop);
    }
    let waiting = held(&mut fixture);
    // 1 MiB of records with room for 2 KiB.
    assert!((500..512).contains(&waiting.len()), "{} waited", waiting.len());
    let waiting = waiting.len() as u64;
    fixture.expect_counts(&[("fragment_held", waiting), ("fragment_lost", 1_000 - waiting)]);
    fixture.dropped(fragment, "fragment_held");
}

#[test]
fn fragments_of_a_packet_that_the_agent_gave_to_the_kernel_are_passed() {
    let mut fixture = Fixture::with_exchanges();
    let (_held, mut notes) = fixture.dataplane.take_fragments().expect("the maps");
    for exchange in Exchange::all() {
        set_role(&mut fixture, exchange.vip(), Roles::VIP);
        let [packet, _] = large_packets();
        let frames = fragments_for_mtu(&exchange.request(packet).build(), 1500, 0x0808);
        fixture.dropped(&frames[1], "fragment_held");
        let id = PacketId {
            source: exchange.family.client(1),
            destination: exchange.vip(),
            id: 0x0808,
            // Over IPv6 fragments of all protocols share the identifications.
            protocol: match exchange.family {
                Family::V4 => 17,
                Family::V6 => 0,
            },
        };
        notes.let_pass(&id, expiry::now().expect("the time")).expect("a note");
        fixture.passed(&frames[1], "fragment");
        fixture.passed(&frames[2], "fragment");
        // The kernel has the others: the first one alone would be of no use to the backend.
        fixture.dropped(&frames[0], "fragment_conflict");
    }
}

#[test]
fn identification_may_be_used_again_once_the_last_fragment_has_come() {
    exchange::each(|fixture, exchange| {
        let [packet, _] = large_packets();
        for port in exchange.port..exchange.port + 5 {
            let exchange = exchange.at_port(port);
            let cut = |packet: Packet| fragments_for_mtu(&packet.build(), 1500, 0x0909);
            check(
                fixture,
                &cut(exchange.request(packet.clone())),
                &cut(exchange.request_leaving(packet.clone())),
            );
        }
        fixture.expect_counts(&[("forward", 15)]);
    });
}

#[test]
fn protocols_have_identifications_of_their_own_over_ipv4() {
    exchange::each(|fixture, exchange| {
        if exchange.family == Family::V6 {
            return;
        }
        for packets in [
            large_packets().map(|packet| exchange.request(packet).build()),
            large_packets().map(|packet| exchange.reply(packet).build()),
        ] {
            let [datagram, segment] = packets.map(|frame| fragments_for_mtu(&frame, 1500, 0x0a0a));
            for (one, other) in datagram.iter().zip(&segment) {
                all_forwarded(fixture, &[one.clone(), other.clone()]);
            }
        }
        fixture.expect_counts(&[("forward", 6), ("reply", 6)]);
    });
}

/// RFC 1122, section 3.2.2: no error about a fragment but the first.
#[test]
fn nobody_is_told_of_a_later_fragment_that_cannot_go_on() {
    exchange::each(|fixture, exchange| {
        let [packet, _] = large_packets();
        let frame = exchange.request(packet.clone()).build();
        all_forwarded(fixture, &[fragment_of(&frame, 0..800, true, 0x0b0b)]);
        fixture.counts();
        for ttl in [0, 1] {
            let dying = exchange.request(packet.clone()).ttl(ttl).build();
            fixture.dropped(&fragment_of(&dying, 800..1_600, true, 0x0b0b), "ttl_expired");
        }
        let headers = match exchange.family {
            Family::V4 => 20,
            Family::V6 => 48,
        };
        let of_length = |length: usize| fragment_of(&frame, 800..800 + length - headers, false, 0x0b0b);
        fixture.dropped(&of_length(1_501), "too_big");
        all_forwarded(fixture, &[of_length(1_500)]);
        fixture.expect_counts(&[("forward", 1)]);
    });
}

/// RFC 6946: a fragment header alone makes no fragment.
#[test]
fn atomic_fragments_are_whole_packets() {
    exchange::each(|fixture, exchange| {
        if exchange.family == Family::V4 {
            return;
        }
        let atomic = Extension::Fragment {
            offset: 0,
            more: false,
            id: 0x0c0c_0c0c,
        };
        // One identification for all, and no note: not one of them meets another.
        for port in exchange.port..exchange.port + 3 {
            let exchange = exchange.at_port(port);
            exchange.open(fixture);
            for packet in [Packet::udp(), Packet::tcp()] {
                exchange.check(fixture, &packet.extensions(&[atomic]).payload(b"whole"));
            }
        }
        fixture.expect_counts(&[("forward", 12), ("reply", 6)]);
        // Nothing followed it, nothing may.
        let [packet, _] = large_packets();
        let frame = exchange.request(packet).build();
        fixture.passed(&fragment_of(&frame, 800..1_600, false, 0x0c0c_0c0c), "fragment");
    });
}

#[test]
fn fragments_of_a_dsr_connection_change_their_ethernet_addresses_alone() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Dsr);
        for (program, id) in XDP_PROGRAMS.into_iter().zip(0x0e0e..) {
            fixture.use_program(program);
            // Not a hop: its time to live is not looked at either.
            for ttl in [64, 1] {
                let [packet, _] = large_packets();
                let packet = from_client(packet.over(family)).ttl(ttl);
                let cut = |packet: Packet| fragments_for_mtu(&packet.build(), 1500, id);
                let leaving = packet.clone().ethernet(GATEWAY_TO_BACKENDS_MAC, BACKEND_ROUTER_MAC);
                check(&mut fixture, &cut(packet), &cut(leaving));
                fixture.expect_counts(&[("forward", 3)]);
            }
        }
    }
}
