//! Frames that the builder made, judged by the kernels of the laboratory, and the kernels' own frames, judged by the judges.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use lb_tests::{
    counters::Counters,
    diff::{assert_packet_eq, checksums_valid, difference, differing_fields, endpoints},
    layers::{self, ICMP, ICMPV6, IpPacket},
    names::{Family, Mac},
    packet::{Extension, IcmpError, Packet, Tag, TcpFlags, fragment_of, fragments, fragments_for_mtu, quote},
    raw_socket::RawSocket,
    topology::{Lab, LabOptions},
    traffic::backend::{Backend, PORT},
    wait::until,
};

/// How long a frame may take. None does unless a test fails.
const LIMIT: Duration = Duration::from_secs(5);

/// A laboratory with a backend, and a socket on the first client's device.
struct Scene {
    lab: Lab,
    _backend: Backend,
    client: RawSocket,
    macs: (Mac, Mac),
}

impl Scene {
    fn start() -> Result<Self> {
        Self::start_with(1500)
    }

    fn start_with(mtu: u16) -> Result<Self> {
        let lab = Lab::with(LabOptions {
            ipv6: true,
            mtu,
            ..LabOptions::default()
        })?;
        Ok(Self {
            _backend: Backend::start(&lab.backends[0], 1)?,
            client: RawSocket::open(&lab.clients[0], "eth0")?,
            macs: (lab.clients[0].mac("eth0")?, lab.client_router.mac("lan")?),
            lab,
        })
    }

    /// From the client to its router.
    const fn sent_by_client(&self, packet: Packet) -> Packet {
        packet.ethernet(self.macs.0, self.macs.1)
    }

    /// A datagram to the backend that is answered, with this number of bytes.
    fn question(&self, family: Family, length: usize) -> Packet {
        let datagram = Packet::udp().from(family.client(1), 5000).to(family.backend(1), PORT);
        self.sent_by_client(datagram.payload(format!("{:>length$}", 7).as_bytes()))
    }

    /// The next frame from the backend's port to the client's.
    fn answer(&self, family: Family) -> Result<Vec<u8>> {
        let from_backend = |frame: &[u8]| {
            endpoints(frame).is_some_and(|(from, to)| from.ip() == family.backend(1) && to.port() == 5000)
        };
        self.client.receive(LIMIT, from_backend)
    }
}

/// The frame's fields but for those that a sender's kernel chooses, and no others, are as expected.
#[track_caller]
fn assert_same_but_for_choices(actual: &[u8], expected: &[u8]) {
    let mut names = differing_fields(actual, expected);
    names.retain(|name| !["ip id", "ip checksum", "flow label", "icmp checksum"].contains(&name.as_str()));
    assert!(names.is_empty(), "{}", difference(actual, expected).unwrap_or_default());
}

/// Whether a frame is an ICMP message of this type, of the family's own.
fn is_icmp(frame: &[u8], family: Family, kind: u8) -> bool {
    let packet = layers::network(frame).and_then(|(_, at)| IpPacket::read(&frame[at..]).ok());
    packet.is_some_and(|packet| {
        matches!((family, packet.protocol), (Family::V4, ICMP) | (Family::V6, ICMPV6))
            && packet.family == family
            && packet.segment.first() == Some(&kind)
    })
}

#[test]
fn datagrams_are_answered_whole_and_in_fragments() -> Result<()> {
    let scene = Scene::start()?;
    for family in Family::ALL {
        let answer = Packet::udp().from(family.backend(1), PORT).to(family.client(1), 5000);
        let text = format!("1 7 {}\n", SocketAddr::new(family.client(1), 5000));
        // The answer has passed three routers, and its checksum is left to a network card that there is none of.
        let answer = answer.payload(text.as_bytes()).ttl(61).partial_checksum();
        let expected = answer.ethernet(scene.macs.1, scene.macs.0).build();

        let whole = scene.question(family, 1400).build();
        let mut backwards = fragments(&whole, &[8, 800], 2);
        backwards.reverse();
        for frames in [vec![whole.clone()], fragments_for_mtu(&whole, 600, 1), backwards] {
            for frame in &frames {
                scene.client.send(frame)?;
            }
            assert_same_but_for_choices(&scene.answer(family)?, &expected);
        }
    }
    Ok(())
}

#[test]
fn overlapping_fragments_are_no_datagram() -> Result<()> {
    let scene = Scene::start()?;
    for (family, counter) in [(Family::V4, "IpReasmFails"), (Family::V6, "Ip6ReasmFails")] {
        let failures = || Counters::of(&scene.lab.backends[0]).map(|counters| counters.get(counter));
        let before = failures()?;
        let frame = scene.question(family, 100).build();
        for (range, more) in [(0..64, true), (48..108, false)] {
            scene.client.send(&fragment_of(&frame, range, more, 9))?;
        }
        until(counter, LIMIT, || Ok((failures()? > before).then_some(())))?;
    }
    Ok(())
}

#[test]
fn extension_headers_are_taken_by_the_kernel() -> Result<()> {
    let scene = Scene::start()?;
    for units in [0, 1, 32, 80] {
        let extensions = [
            Extension::HopByHop(0),
            Extension::Destination(units),
            Extension::Fragment {
                offset: 0,
                more: false,
                id: 5,
            },
            Extension::Destination(units),
        ];
        let question = scene.question(Family::V6, 10).extensions(&extensions);
        scene.client.send(&question.build())?;
        scene.answer(Family::V6)?;
    }
    Ok(())
}

#[test]
fn echo_is_answered_and_the_reply_is_what_the_builder_makes() -> Result<()> {
    let scene = Scene::start()?;
    for (family, kind) in [(Family::V4, 0), (Family::V6, 129)] {
        let between = |packet: Packet| {
            packet
                .source(family.client(1))
                .destination(family.backend(1))
                .payload(b"odd")
        };
        let request = scene.sent_by_client(between(Packet::echo_request(7, 9)));
        scene.client.send(&request.build())?;
        let reply = scene.client.receive(LIMIT, |frame| is_icmp(frame, family, kind))?;
        assert_eq!(checksums_valid(&reply), Ok(()));
        let expected = Packet::echo_reply(7, 9)
            .source(family.backend(1))
            .destination(family.client(1));
        let expected = expected.payload(b"odd").ttl(61).dont_fragment(false);
        assert_same_but_for_choices(&reply, &expected.ethernet(scene.macs.1, scene.macs.0).build());
    }
    Ok(())
}

#[test]
fn error_of_a_kernel_is_what_the_builder_makes() -> Result<()> {
    let scene = Scene::start()?;
    for (family, kind) in [(Family::V4, 3), (Family::V6, 1)] {
        let closed = scene.question(family, 20).to(family.backend(1), 4);
        scene.client.send(&closed.build())?;
        let error = scene.client.receive(LIMIT, |frame| is_icmp(frame, family, kind))?;
        assert_eq!(checksums_valid(&error), Ok(()));
        // It quotes the datagram as it arrived, behind three routers.
        let quoted = quote(&closed.ttl(60).build(), usize::MAX);
        let expected = Packet::icmp_error(IcmpError::PortUnreachable, &quoted).source(family.backend(1));
        // Linux sends such errors with the precedence of RFC 1812, section 4.3.2.5, in IPv4.
        let expected = expected
            .ttl(61)
            .dont_fragment(false)
            .dscp(if family == Family::V4 { 48 } else { 0 });
        assert_same_but_for_choices(&error, &expected.ethernet(scene.macs.1, scene.macs.0).build());
    }
    Ok(())
}

#[test]
fn tags_pass_a_link_as_they_are() -> Result<()> {
    let scene = Scene::start()?;
    let router = RawSocket::open(&scene.lab.client_router, "client1")?;
    let tags = [
        Tag::service(100).priority(3),
        Tag::customer(4094).drop_eligible(),
        Tag::customer(7),
    ];
    for depth in 0..=3 {
        for family in Family::ALL {
            let frame = scene.question(family, 10).tags(&tags[3 - depth..]).build();
            scene.client.send(&frame)?;
            let expected = endpoints(&frame);
            assert_packet_eq(&router.receive(LIMIT, |frame| endpoints(frame) == expected)?, &frame);
        }
    }
    Ok(())
}

#[test]
fn narrow_link_is_told_of_by_the_router_before_it() -> Result<()> {
    let scene = Scene::start()?;
    scene.lab.narrow_backend_link(1, 1280)?;
    for (family, kind) in [(Family::V4, 3), (Family::V6, 2)] {
        let long = scene.question(family, 1400);
        scene.client.send(&long.build())?;
        let error = scene.client.receive(LIMIT, |frame| is_icmp(frame, family, kind))?;
        assert_eq!(checksums_valid(&error), Ok(()));
        let packet = IpPacket::read(&error[14..]).expect("a packet");
        assert_eq!(packet.source, family.backend_router());
        assert_eq!(u16::from_be_bytes([packet.segment[6], packet.segment[7]]), 1280);
    }
    Ok(())
}

/// As if the narrow link were in the middle of the path: its end does not know of it, and senders find out.
#[test]
fn end_of_a_narrow_link_asks_for_segments_of_a_whole_ethernet_frame() -> Result<()> {
    let scene = Scene::start()?;
    scene.lab.narrow_backend_link(1, 1280)?;
    for family in Family::ALL {
        let syn = Packet::tcp().flags(TcpFlags::SYN).tcp_options(&[2, 4, 0x05, 0xb4]);
        let syn = syn.from(family.client(1), 5000).to(family.backend(1), PORT);
        scene.client.send(&scene.sent_by_client(syn).build())?;
        let answer = scene.answer(family)?;
        let packet = IpPacket::read(&answer[14..]).expect("a packet");
        let asked_for = [[2, 4], family.ethernet_segment().to_be_bytes()].concat();
        assert_eq!(packet.segment[20..24], asked_for, "{family}");
    }
    Ok(())
}

#[test]
fn jumbo_frames_pass_where_links_are_wide() -> Result<()> {
    let scene = Scene::start_with(9000)?;
    for family in Family::ALL {
        let router = RawSocket::open(&scene.lab.backend_router, "uplink")?;
        let question = scene.question(family, 8900).build();
        scene.client.send(&question)?;
        let expected = endpoints(&question);
        let passed = router.receive(LIMIT, |frame| endpoints(frame) == expected)?;
        assert_eq!(passed.len(), question.len());
    }
    Ok(())
}
