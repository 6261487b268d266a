//! Echo requests (ping) to VIPs: answered, refused, or left to the kernel, as the VIP's role says. No service sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{role::Roles, service::Forwarding};
use lb_tests::{
    diff::{assert_packet_eq, checksums_valid},
    names::{CLIENT_ROUTER_MAC, Family, GATEWAY_TO_CLIENTS_MAC},
    packet::{Extension, IcmpError, Packet, Tag},
};
use xlb::dataplane::Dataplane as _;

use crate::fixture::{Fixture, XDP_PROGRAMS, from_client};

/// Time to live of an answer.
const TTL: u8 = 64;

/// A fixture whose VIP has these roles.
fn with_roles(family: Family, roles: u32) -> Fixture {
    let mut fixture = Fixture::of_family(family, Forwarding::Nat);
    set_roles(&mut fixture, family.vip(), roles);
    fixture
}

fn set_roles(fixture: &mut Fixture, address: IpAddr, roles: u32) {
    fixture.dataplane.set_roles(address, Roles(roles)).expect("a role");
}

/// A request of the first client to the VIP.
fn request(family: Family) -> Packet {
    from_client(Packet::echo_request(0x1234, 7).over(family))
}

/// What the VIP answers to [`request`].
fn reply(family: Family) -> Packet {
    Packet::echo_reply(0x1234, 7)
        .source(family.vip())
        .destination(family.client(1))
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .ttl(TTL)
}

/// Runs [`request`] and compares with [`reply`], both shaped alike.
#[track_caller]
fn check(fixture: &mut Fixture, family: Family, shape: impl Fn(Packet) -> Packet) {
    fixture.counts();
    let out = fixture.forwarded(&shape(request(family)).build());
    assert_packet_eq(&out, &shape(reply(family)).build());
    fixture.expect_counts(&[("echo", 1)]);
}

#[test]
fn request_is_answered_where_the_role_says_so() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            check(&mut fixture, family, |packet| packet);
            check(&mut fixture, family, |packet| packet.payload(&[0xa5; 56]));
        }
        assert!(fixture.connections().is_empty());
    }
}

#[test]
fn request_of_any_size_is_answered() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        for size in [1, 2, 3, 55, 57, 999, 1_451, 1_452, 3_000] {
            let data: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
            check(&mut fixture, family, |packet| packet.payload(&data));
        }
    }
}

#[test]
fn answer_has_everything_else_of_the_request() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        check(&mut fixture, family, |packet| {
            packet
                .dscp(46)
                .ecn(1)
                .id(0xffff)
                .dont_fragment(false)
                .flow_label(0xabcde)
        });
        check(&mut fixture, family, |packet| packet.trailer(&[0xee; 17]));
        check(&mut fixture, family, |packet| packet.ip_options(&[1; 12]));
        check(&mut fixture, family, |packet| {
            packet.extensions(&[Extension::HopByHop(0), Extension::Destination(1)])
        });
        for tags in [&[Tag::customer(7)][..], &[Tag::service(7), Tag::customer(8)]] {
            check(&mut fixture, family, |packet| packet.tags(tags).payload(b"odd"));
        }
    }
}

/// A router passes a packet that it keeps, whatever its time to live (RFC 1812, section 4.2.2.9).
#[test]
fn request_is_answered_whatever_its_time_to_live() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        for ttl in [1, 2, 255] {
            let out = fixture.forwarded(&request(family).ttl(ttl).build());
            assert_packet_eq(&out, &reply(family).build());
        }
    }
}

/// The checksum is updated by what changes: whoever gets the answer finds what the way to us did to the request.
#[test]
fn wrong_checksum_of_a_request_stays_wrong() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        let out = fixture.forwarded(&request(family).payload(b"data").bad_checksum().build());
        let complaint = checksums_valid(&out).expect_err("a wrong checksum");
        assert!(complaint.starts_with("icmp"), "{complaint}");
        let right = reply(family).payload(b"data").build();
        let checksum = right.len() - 4 - 6..right.len() - 4 - 4;
        let mut expected = right;
        expected[checksum.clone()].copy_from_slice(&out[checksum]);
        assert_packet_eq(&out, &expected);
    }
}

/// Where request or answer have a checksum of zero, in either form that one's complement has for it, or one beside it.
#[test]
fn checksum_of_an_answer_is_right_around_zero() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        // The payload that makes the request's checksum zero is its checksum without that payload.
        let frame = request(family).payload(&[0, 0]).build();
        let at = frame.len() - 2 - 6;
        let zero = u16::from_be_bytes([frame[at], frame[at + 1]]);
        // The answer's number is 8 lower over IPv4, 1 higher over IPv6.
        for beyond in [0, 0x0800, 0_u16.wrapping_sub(0x0100)] {
            for step in 0..5 {
                let word = zero.wrapping_add(beyond).wrapping_sub(2).wrapping_add(step);
                let out = fixture.forwarded(&request(family).payload(&word.to_be_bytes()).build());
                assert_eq!(checksums_valid(&out), Ok(()));
            }
        }
    }
}

#[test]
fn request_is_left_to_the_kernel_without_a_role_that_says_otherwise() {
    for family in Family::ALL {
        let mut fixture = Fixture::of_family(family, Forwarding::Nat);
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            fixture.passed(&request(family).build(), "not_tcp_or_udp");
        }
        for roles in [Roles::VIP, Roles::BACKEND, Roles::SNAT | Roles::BACKEND] {
            set_roles(&mut fixture, family.vip(), roles);
            fixture.passed(&request(family).build(), "not_tcp_or_udp");
        }
        // The role of one VIP is none of another's.
        set_roles(&mut fixture, family.vip_2(), Roles::VIP | Roles::ANSWER_ECHO);
        fixture.passed(&request(family).build(), "not_tcp_or_udp");
    }
}

#[test]
fn request_is_dropped_where_the_role_says_so() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::REFUSE_ECHO);
        for program in XDP_PROGRAMS {
            fixture.use_program(program);
            fixture.dropped(&request(family).build(), "echo_refused");
        }
        assert!(fixture.connections().is_empty());
    }
}

#[test]
fn refusal_counts_where_two_services_of_a_vip_differ() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO | Roles::REFUSE_ECHO);
        fixture.dropped(&request(family).build(), "echo_refused");
    }
}

#[test]
fn replies_and_other_messages_to_a_vip_are_left_to_the_kernel() {
    for family in Family::ALL {
        for roles in [Roles::ANSWER_ECHO, Roles::REFUSE_ECHO] {
            let mut fixture = with_roles(family, Roles::VIP | roles);
            let stray = from_client(Packet::echo_reply(1, 2).over(family));
            fixture.passed(&stray.build(), "not_tcp_or_udp");
            // The numbers of the other family are no echo in this one.
            let kinds: &[u8] = match family {
                Family::V4 => &[9, 10, 13, 15, 17, 128, 129],
                Family::V6 => &[8, 0, 130, 133, 135, 136, 139],
            };
            for kind in kinds {
                let error = IcmpError::Other {
                    kind: *kind,
                    code: 0,
                    rest: [0; 4],
                };
                let message = Packet::icmp_error(error, &[]).over(family);
                fixture.passed(&from_client(message).build(), "not_tcp_or_udp");
            }
        }
    }
}

#[test]
fn request_that_cannot_be_answered_is_left_to_the_kernel() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        for source in [family.unspecified(), family.vip()] {
            fixture.passed(&request(family).source(source).build(), "invalid_source");
        }
        let loopback: IpAddr = match family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        fixture.passed(&request(family).source(loopback).build(), "invalid_source");
    }
}

#[test]
fn request_in_fragments_is_left_to_the_kernel() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::ANSWER_ECHO);
        let first = request(family).payload(&[7; 64]).fragment(0, true);
        fixture.passed(&first.build(), "fragment");
    }
}

#[test]
fn request_cut_short_is_left_to_the_kernel() {
    for family in Family::ALL {
        let mut fixture = with_roles(family, Roles::VIP | Roles::ANSWER_ECHO);
        let frame = request(family).payload(b"data").build();
        for length in 14..frame.len() {
            fixture.passed(&frame[..length], "malformed");
        }
    }
}
