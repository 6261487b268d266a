//! VLAN tags: none, one, or two. The way ahead says which ones a frame leaves with; its priority stays.

use lb_common::backend::{self, NextHop, Tags};
use lb_tests::{
    diff::assert_packet_eq,
    names::{BACKEND_ROUTER_MAC, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC},
    packet::{IcmpError, Packet, Tag, TcpFlags, fragments, quote},
    program::Action,
};
use xlb::dataplane::Dataplane as _;

use crate::{
    exchange::{self, Exchange},
    fixture::{Fixture, IFINDEX},
};

/// Every kind of stack of tags that is carried: 802.1Q with both priority fields, a tag for the priority alone (VLAN 0), QinQ by 802.1ad,
/// and QinQ of two tags of one kind.
pub(crate) fn stacks() -> [Vec<Tag>; 6] {
    [
        vec![],
        vec![Tag::customer(7).priority(5).drop_eligible()],
        vec![Tag::customer(0).priority(6)],
        vec![
            Tag::service(4).priority(3),
            Tag::customer(4_094).priority(1).drop_eligible(),
        ],
        vec![Tag::customer(5), Tag::customer(6).priority(2)],
        vec![Tag::service(1), Tag::service(2)],
    ]
}

/// The tags of a frame that came with the tags `from` and leaves with the VLANs of `to`: untouched where the VLANs are the same, else with
/// the priority of the first tag.
fn leaving(from: &[Tag], to: &[Tag]) -> Vec<Tag> {
    let vlans = |tags: &[Tag]| -> Vec<_> { tags.iter().map(|tag| (tag.protocol, tag.vlan)).collect() };
    if vlans(from) == vlans(to) {
        return from.to_vec();
    }
    let (priority, drop_eligible) = from.first().map_or((0, false), |tag| (tag.priority, tag.drop_eligible));
    to.iter()
        .map(|tag| Tag {
            priority,
            drop_eligible,
            ..*tag
        })
        .collect()
}

/// Lets the way to every backend have these tags.
pub(crate) fn set_way(fixture: &mut Fixture, stack: &[Tag]) {
    let mut tags = stack.iter().map(|tag| match tag.protocol {
        0x88a8 => backend::Tag::service(tag.vlan),
        _ => backend::Tag::customer(tag.vlan),
    });
    let tags = Tags {
        outer: tags.next().unwrap_or_default(),
        inner: tags.next().unwrap_or_default(),
    };
    for (id, mut entry) in fixture.dataplane.backends().expect("the backends") {
        entry.next_hop = NextHop::new(IFINDEX, BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC, tags, 1500);
        fixture.dataplane.set_backend(id, &entry).expect("a backend");
    }
}

#[test]
fn frames_leave_with_the_tags_of_the_way_ahead_and_are_otherwise_the_same() {
    exchange::each(|fixture, exchange| {
        for on_backend_side in stacks() {
            set_way(fixture, &on_backend_side);
            for on_client_side in stacks() {
                for packet in [Packet::tcp(), Packet::udp()] {
                    let packet = packet.payload(b"data").trailer(b"padding");
                    let request = exchange.request(packet.clone()).tags(&on_client_side);
                    let expected = exchange
                        .request_leaving(packet.clone())
                        .tags(&leaving(&on_client_side, &on_backend_side));
                    assert_packet_eq(&fixture.forwarded(&request.build()), &expected.build());

                    // Of the client's tags the VLANs are learned. The priority is a matter of each frame.
                    let reply = exchange.reply(packet.clone()).tags(&on_backend_side);
                    let expected = exchange
                        .reply_leaving(packet)
                        .tags(&leaving(&on_backend_side, &on_client_side));
                    assert_packet_eq(&fixture.forwarded(&reply.build()), &expected.build());
                }
                fixture.expect_counts(&[("forward", 2), ("reply", 2)]);
            }
        }
        set_way(fixture, &[]);
    });
}

#[test]
fn fragments_leave_with_the_tags_of_the_way_ahead() {
    exchange::each(|fixture, exchange| {
        for (on_backend_side, id) in stacks().into_iter().zip(u32::from(exchange.port)..) {
            set_way(fixture, &on_backend_side);
            let on_client_side = [Tag::customer(9).priority(4)];
            let packet = Packet::udp().payload(&[7; 300]);
            let cut = |packet: Packet, tags: &[Tag]| fragments(&packet.tags(tags).build(), &[64, 128], id);
            let arriving = cut(exchange.request(packet.clone()), &on_client_side);
            let expected = cut(
                exchange.request_leaving(packet),
                &leaving(&on_client_side, &on_backend_side),
            );
            for (fragment, expected) in arriving.iter().zip(&expected) {
                assert_packet_eq(&fixture.forwarded(fragment), expected);
            }
            fixture.expect_counts(&[("forward", 3)]);
        }
        set_way(fixture, &[]);
    });
}

/// The client may move to another VLAN, as it may move to another router.
#[test]
fn reply_leaves_with_the_tags_that_the_client_had_last() {
    exchange::each(|fixture, exchange| {
        for stack in stacks() {
            let request = exchange.request(Packet::tcp()).tags(&stack).build();
            fixture.forwarded(&request);
            let out = fixture.forwarded(&exchange.reply(Packet::tcp()).build());
            let expected = exchange.reply_leaving(Packet::tcp()).tags(&leaving(&[], &stack));
            assert_packet_eq(&out, &expected.build());
        }
    });
}

#[test]
fn connection_opens_within_tags() {
    exchange::each(|fixture, exchange| {
        for (stack, port) in stacks().into_iter().zip(exchange.port + 1..) {
            let exchange = exchange.at_port(port);
            let syn = Packet::tcp().flags(TcpFlags::SYN);
            let out = fixture.forwarded(&exchange.request(syn.clone()).tags(&stack).build());
            assert_packet_eq(&out, &exchange.request_leaving(syn.clone()).build());
            let out = fixture.forwarded(&exchange.reply(syn.clone()).build());
            let expected = exchange.reply_leaving(syn).tags(&leaving(&[], &stack));
            assert_packet_eq(&out, &expected.build());
        }
    });
}

#[test]
fn tags_that_are_not_known_are_passed_untouched() {
    exchange::each(|fixture, exchange| {
        let other = Tag {
            protocol: 0x9100,
            ..Tag::customer(7)
        };
        let strange = [
            vec![Tag::customer(1), Tag::customer(2), Tag::customer(3)],
            vec![Tag::service(1), Tag::service(2), Tag::customer(3)],
            vec![other],
            vec![Tag::customer(7), other],
        ];
        for stack in strange {
            fixture.passed(&exchange.request(Packet::udp()).tags(&stack).build(), "not_ip");
            fixture.passed(&exchange.reply(Packet::udp()).tags(&stack).build(), "not_ip");
        }
    });
}

#[test]
fn frame_that_ends_within_its_tags_is_passed() {
    exchange::each(|fixture, exchange| {
        for stack in stacks() {
            let frame = exchange.request(Packet::udp()).tags(&stack).build();
            for length in 14..14 + 4 * stack.len() {
                fixture.passed(&frame[..length], "malformed");
            }
        }
    });
}

#[test]
fn refusal_goes_back_within_the_tags_of_what_it_refuses() {
    exchange::each(|fixture, exchange| {
        for stack in stacks() {
            let dying = exchange.request(Packet::udp().payload(b"data")).ttl(1).tags(&stack);
            let outcome = fixture.run(&dying.build());
            assert_eq!(outcome.action, Action::Redirect);
            assert_packet_eq(&outcome.frame, &time_exceeded(exchange, &dying, &stack));
            fixture.expect_counts(&[("ttl_expired", 1), ("icmp_sent", 1)]);
        }
    });
}

/// What the client is told of its packet: in its VLAN, without a priority.
fn time_exceeded(exchange: Exchange, packet: &Packet, stack: &[Tag]) -> Vec<u8> {
    let error = Packet::icmp_error(IcmpError::TimeExceeded, &quote(&packet.build(), usize::MAX))
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .source(exchange.vip())
        .ttl(64)
        .tags(&leaving(&[], stack));
    match exchange.family {
        // Internetwork control (RFC 1812, section 4.3.2.5).
        Family::V4 => error.id(0).dscp(48).build(),
        Family::V6 => error.build(),
    }
}
