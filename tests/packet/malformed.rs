//! Packets that are cut short or contradict themselves: passed unmodified or forwarded right, never more.

use lb_common::service::Forwarding;
use lb_tests::{
    names::{BACKEND_1, CLIENT, VIP},
    packet::{Packet, TcpFlags},
    program::Action,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::fixture::{Fixture, PORT, XDP_PROGRAMS, from_backend, from_client, syn};

/// Ethernet header; the kernel runs no shorter frame.
const SHORTEST: usize = 14;

/// Twelve well-formed packets of different shapes.
fn base_packets() -> Vec<Packet> {
    let datagram = from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT));
    vec![
        syn(),
        syn().flags(TcpFlags::ACK),
        syn().payload(b"data"),
        syn().ip_options(&[1; 40]),
        syn().tcp_options(&[1; 40]),
        syn().ip_options(&[1; 8]).tcp_options(&[1; 12]).payload(&[7; 200]),
        datagram.clone(),
        datagram.clone().payload(b"data"),
        datagram.clone().ip_options(&[1; 4]).payload(&[7; 100]),
        datagram.without_checksum(),
        from_backend(Packet::tcp().to(CLIENT, 40_000), BACKEND_1),
        from_backend(Packet::udp().to(CLIENT, 7).payload(b"answer"), BACKEND_1),
    ]
}

#[test]
fn frame_cut_at_any_byte_is_passed() {
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        for packet in base_packets() {
            let frame = packet.build();
            for length in SHORTEST..frame.len() {
                fixture.passed(&frame[..length], "malformed");
            }
        }
        assert!(fixture.connections().is_empty());
    }
}

#[test]
fn contradicting_lengths_are_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    let datagram = || from_client(Packet::udp().from(CLIENT, 7).to(VIP, PORT)).payload(b"data");
    for ihl in 0..5 {
        fixture.passed(&syn().claim_ihl(ihl).build(), "malformed");
        fixture.passed(&datagram().claim_ihl(ihl).build(), "malformed");
    }
    for version in [0, 5, 6, 15] {
        fixture.passed(&syn().claim_version(version).build(), "malformed");
    }
    // Shorter than the header it counts; shorter than its TCP header; longer than the frame.
    for length in [0, 19, 20, 39, 41, 1500, 65_535] {
        fixture.passed(&syn().claim_total_length(length).build(), "malformed");
    }
    for words in 0..5 {
        fixture.passed(&syn().claim_data_offset(words).build(), "malformed");
    }
    // A TCP header that ends behind the packet.
    fixture.passed(&syn().claim_data_offset(6).build(), "malformed");
    for length in [0, 7, 13, 65_535] {
        fixture.passed(&datagram().claim_udp_length(length).build(), "malformed");
    }
    assert!(fixture.connections().is_empty());
}

#[test]
fn fragments_of_packets_that_are_not_ours_are_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for fragment in [(185, true), (185, false), (8191, false)] {
        let later = |packet: Packet| packet.fragment(fragment.0, fragment.1).build();
        fixture.passed(&later(syn()), "fragment");
        fixture.passed(&later(syn().to(VIP, PORT + 1)), "fragment");
    }
    fixture.passed(&syn().to(VIP, PORT + 1).fragment(0, true).build(), "no_listener");
    fixture.passed(&syn().flags(TcpFlags::ACK).fragment(0, true).build(), "no_connection");
    fixture.passed(&syn().fragment(185, false).build(), "fragment");
    assert!(fixture.connections().is_empty());
}

#[test]
fn other_protocols_are_passed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    for protocol in [0, 1, 2, 4, 41, 47, 50, 58, 132, 255] {
        fixture.passed(&syn().claim_protocol(protocol).build(), "not_tcp_or_udp");
    }
    for ethertype in [0x0806_u16, 0x86dd, 0x8100, 0x88cc, 0x0800_u16.swap_bytes()] {
        let mut frame = syn().build();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        fixture.passed(&frame, "not_ip");
    }
}

/// Random bytes over well-formed packets: whatever happens is a counted verdict, a passed packet is unmodified, and no byte appears
/// that was not there.
#[test]
fn mutated_packets_never_escape_the_rules() {
    let mut random = StdRng::seed_from_u64(0xa3);
    let bases: Vec<Vec<u8>> = base_packets().iter().map(Packet::build).collect();
    for program in XDP_PROGRAMS {
        let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
        fixture.use_program(program);
        for _ in 0..15_000 {
            let mut frame = bases[random.random_range(0..bases.len())].clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(12..frame.len());
                frame[at] = random.random();
            }
            frame.truncate(random.random_range(SHORTEST..=frame.len()));
            let outcome = fixture.run(&frame);
            let counted: u64 = fixture
                .counts()
                .into_iter()
                .filter(|(name, _)| *name != "pair_repaired")
                .map(|(_, n)| n)
                .sum();
            assert_eq!(counted, 1, "one verdict a packet: {frame:02x?}");
            match outcome.action {
                Action::Pass | Action::Drop => assert_eq!(outcome.frame, frame, "unmodified unless forwarded"),
                Action::Redirect => {
                    assert_eq!(outcome.frame.len(), frame.len());
                    let changed = (0..frame.len()).filter(|at| outcome.frame[*at] != frame[*at]);
                    let header = 14 + 4 * usize::from(frame[14] & 0x0f);
                    let allowed = |at: usize| {
                        at < 12
                            || at == 14 + 8
                            || (14 + 10..14 + 20).contains(&at)
                            || (header..header + 4).contains(&at)
                            || (header + 6..header + 8).contains(&at)
                            || (header + 16..header + 18).contains(&at)
                    };
                    for at in changed {
                        assert!(
                            allowed(at),
                            "byte {at} changed: {frame:02x?} became {:02x?}",
                            outcome.frame
                        );
                    }
                }
                other => panic!("{other:?} for {frame:02x?}"),
            }
        }
    }
}
