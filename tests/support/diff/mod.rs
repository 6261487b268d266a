//! Comparing and verifying frames, field by field.
//!
//! Fields are read leniently by the frame's own length fields, so that a damaged frame can be shown as well.

mod fields;
mod verify;

use std::{fmt::Write as _, net::SocketAddr};

use self::fields::{Field, fields};
pub use self::verify::checksums_valid;
use crate::layers::{self, IpPacket, TCP, UDP};

/// Fails with a table of the differing fields and a hex dump unless both frames are the same, byte for byte.
///
/// # Panics
///
/// When they differ; that is its purpose.
#[track_caller]
pub fn assert_packet_eq(actual: &[u8], expected: &[u8]) {
    if let Some(difference) = difference(actual, expected) {
        assert!(actual == expected, "packets differ\n{difference}");
    }
}

/// A table of all fields of two frames with the differing ones marked, and a dump of both; `None` if they are the same.
pub fn difference(actual: &[u8], expected: &[u8]) -> Option<String> {
    if actual == expected {
        return None;
    }
    let mut text = format!("  {:<24} {:<40} {}\n", "field", "actual", "expected");
    for (name, actual, expected) in aligned(&fields(actual), &fields(expected)) {
        let mark = if actual == expected { ' ' } else { '*' };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{mark} {name:<24} {actual:<40} {expected}");
    }
    for (title, frame, other) in [("actual", actual, expected), ("expected", expected, actual)] {
        let _ = writeln!(text, "{title}, {} bytes", frame.len());
        text += &dump(frame, other);
    }
    Some(text)
}

/// Names of the fields in which two frames differ.
pub fn differing_fields(actual: &[u8], expected: &[u8]) -> Vec<String> {
    aligned(&fields(actual), &fields(expected))
        .into_iter()
        .filter(|(_, actual, expected)| actual != expected)
        .map(|(name, ..)| name)
        .collect()
}

/// Rows of both frames side by side, fields that only one has against a dash.
fn aligned(actual: &[Field], expected: &[Field]) -> Vec<(String, String, String)> {
    let value = |fields: &[Field], name: &str| {
        let field = fields.iter().find(|field| field.name == name);
        field.map_or_else(|| "-".to_owned(), |field| field.value.clone())
    };
    let only_actual = actual
        .iter()
        .filter(|field| expected.iter().all(|other| other.name != field.name));
    expected
        .iter()
        .chain(only_actual)
        .map(|field| {
            (
                field.name.clone(),
                value(actual, &field.name),
                value(expected, &field.name),
            )
        })
        .collect()
}

/// Sixteen bytes a line, those that differ from `other` in brackets.
fn dump(frame: &[u8], other: &[u8]) -> String {
    let mut text = String::new();
    for (line, bytes) in frame.chunks(16).enumerate() {
        let _ = write!(text, "  {:04x} ", line * 16);
        for (column, byte) in bytes.iter().enumerate() {
            let same = other.get(line * 16 + column) == Some(byte);
            let _ = if same {
                write!(text, " {byte:02x} ")
            } else {
                write!(text, "[{byte:02x}]")
            };
        }
        text.push('\n');
    }
    text
}

/// Source and destination of a frame with TCP or UDP, of either family; `None` for any other, and for fragments but the first.
pub fn endpoints(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (_, at) = layers::network(frame)?;
    let packet = IpPacket::read(&frame[at..]).ok()?;
    let ports = packet.segment.get(..4)?;
    let is_flow = matches!(packet.protocol, TCP | UDP) && packet.begins_segment();
    is_flow.then(|| {
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        (
            SocketAddr::new(packet.source, port(&ports[..2])),
            SocketAddr::new(packet.destination, port(&ports[2..])),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::Family,
        packet::{Extension, IcmpError, Packet, Tag, TcpFlags, fragments, quote},
    };

    /// Frames with everything that is read, for both families.
    fn shapes() -> Vec<Vec<u8>> {
        let extensions = [
            Extension::HopByHop(1),
            Extension::Fragment {
                offset: 0,
                more: false,
                id: 1,
            },
            Extension::Authentication,
        ];
        let of_family = |family| {
            let any = |packet: Packet| {
                packet
                    .over(family)
                    .extensions(&extensions)
                    .payload(b"data")
                    .trailer(&[1, 2])
            };
            let datagram = any(Packet::udp().ip_options(&[0x94, 4, 0, 0])).build();
            let error = Packet::icmp_error(IcmpError::TimeExceeded, &quote(&datagram, 10));
            [
                any(Packet::tcp().tcp_options(&[2, 4, 5, 180])).build(),
                any(Packet::udp()).tags(&[Tag::service(1), Tag::customer(2)]).build(),
                any(Packet::echo_request(1, 2)).build(),
                error.build(),
                error.tags(&[Tag::customer(3)]).icmp_extension(&[0, 4, 1, 1]).build(),
                datagram,
            ]
        };
        Family::ALL.into_iter().flat_map(of_family).collect()
    }

    #[test]
    fn every_changed_byte_shows_in_at_least_one_field() {
        for expected in shapes() {
            for at in 0..expected.len() {
                for bit in 0..8 {
                    let mut actual = expected.clone();
                    actual[at] ^= 1 << bit;
                    let fields = differing_fields(&actual, &expected);
                    assert!(!fields.is_empty(), "byte {at}, bit {bit} is in no field");
                }
            }
        }
    }

    #[test]
    fn field_is_named_with_both_values() {
        let expected = Packet::tcp().ttl(63).flags(TcpFlags::SYN).build();
        let actual = Packet::tcp().ttl(64).flags(TcpFlags::SYN | TcpFlags::ACK).build();
        assert_eq!(
            differing_fields(&actual, &expected),
            ["ttl", "ip checksum", "tcp flags", "l4 checksum"]
        );
        let table = difference(&actual, &expected).unwrap();
        let row = table.lines().find(|line| line.starts_with("* tcp flags")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>()[3..], ["SYN", "ACK", "SYN"]);
    }

    #[test]
    fn quoted_fields_are_named_as_such() {
        for family in Family::ALL {
            let error = |packet: Packet| {
                let quoted = quote(&packet.over(family).build(), usize::MAX);
                Packet::icmp_error(IcmpError::PortUnreachable, &quoted).build()
            };
            let (expected, actual) = (error(Packet::udp()), error(Packet::udp().ttl(1).to(family.vip(), 81)));
            // Over IPv4 each change is made up for by a checksum within the quote, so the sum over all of it stays.
            let names = match family {
                Family::V4 => [
                    "quoted ttl",
                    "quoted ip checksum",
                    "quoted destination port",
                    "quoted l4 checksum",
                ],
                Family::V6 => [
                    "icmp checksum",
                    "quoted ttl",
                    "quoted destination port",
                    "quoted l4 checksum",
                ],
            };
            assert_eq!(differing_fields(&actual, &expected), names);
        }
    }

    #[test]
    fn tags_and_extension_headers_are_named_with_their_content() {
        let tagged = |vlan| Packet::udp().tags(&[Tag::service(4), Tag::customer(vlan)]).build();
        assert_eq!(differing_fields(&tagged(5), &tagged(6)), ["tag 2"]);
        let extended = |extension| Packet::udp().over(Family::V6).extensions(&[extension]).build();
        let (actual, expected) = (extended(Extension::Destination(0)), extended(Extension::HopByHop(0)));
        assert_eq!(differing_fields(&actual, &expected), ["protocol", "extension 1"]);
    }

    #[test]
    fn truncated_frames_are_shown_and_refused_without_panic() {
        for whole in shapes() {
            for length in 0..whole.len() {
                assert!(difference(&whole[..length], &whole).is_some());
                let _ = endpoints(&whole[..length]);
                let _ = checksums_valid(&whole[..length]);
            }
        }
        let whole = Packet::tcp().ip_options(&[0x94, 4, 0, 0]).payload(b"data").build();
        for length in 0..whole.len() {
            assert!(checksums_valid(&whole[..length]).is_err());
        }
    }

    /// Every shape but the trailer: a byte of it is part of no checksum.
    #[test]
    fn damaged_byte_is_noticed_wherever_a_checksum_covers_it() {
        for family in Family::ALL {
            let quoted = quote(&Packet::tcp().over(family).payload(b"data").build(), usize::MAX);
            let cases = [
                Packet::tcp().over(family).payload(b"data"),
                Packet::udp().over(family).payload(b"data").tags(&[Tag::customer(1)]),
                Packet::echo_reply(7, 8).over(family).payload(b"data"),
                Packet::icmp_error(IcmpError::PortUnreachable, &quoted),
            ];
            for packet in cases {
                let frame = packet.build();
                assert_eq!(checksums_valid(&frame), Ok(()));
                let (_, at) = layers::network(&frame).unwrap();
                let header = if family == Family::V4 { 20 } else { 40 };
                for at in at + header..frame.len() {
                    let mut damaged = frame.clone();
                    damaged[at] ^= 0x10;
                    assert!(checksums_valid(&damaged).is_err(), "{family}, byte {at} of {packet:?}");
                }
            }
        }
    }

    #[test]
    fn wrong_checksum_within_a_right_error_is_named() {
        let error = |packet: Packet| {
            let quoted = quote(&packet.build(), usize::MAX);
            checksums_valid(&Packet::icmp_error(IcmpError::PortUnreachable, &quoted).build())
        };
        let reason = |packet: Packet| error(packet).unwrap_err();
        assert_eq!(error(Packet::udp()), Ok(()));
        assert!(reason(Packet::udp().bad_ip_checksum()).starts_with("quoted ip checksum is"));
        for family in Family::ALL {
            assert!(reason(Packet::udp().over(family).bad_checksum()).starts_with("quoted udp checksum is"));
        }
        let outer = Packet::icmp_error(IcmpError::PortUnreachable, &quote(&Packet::udp().build(), 8)).bad_checksum();
        assert!(
            checksums_valid(&outer.build())
                .unwrap_err()
                .starts_with("icmp checksum is")
        );
    }

    #[test]
    fn fragments_are_verified_by_their_ip_header_alone() {
        for family in Family::ALL {
            let frame = Packet::udp().over(family).payload(&[7; 100]).bad_checksum().build();
            for part in fragments(&frame, &[16, 64], 1) {
                assert_eq!(checksums_valid(&part), Ok(()));
            }
        }
        let mut part = fragments(&Packet::udp().payload(&[7; 100]).build(), &[16], 1).remove(1);
        part[22] ^= 1;
        assert!(checksums_valid(&part).unwrap_err().starts_with("ip checksum is"));
    }

    #[test]
    fn wrong_checksum_is_named() {
        let mut frame = Packet::udp().payload(b"data").build();
        assert_eq!(checksums_valid(&frame), Ok(()));
        frame[44] ^= 1;
        assert!(checksums_valid(&frame).unwrap_err().starts_with("udp checksum is"));
        frame[22] ^= 1;
        assert!(checksums_valid(&frame).unwrap_err().starts_with("ip checksum is"));
        assert_eq!(checksums_valid(&Packet::udp().without_checksum().build()), Ok(()));
        assert!(checksums_valid(&Packet::tcp().without_checksum().build()).is_err());
        assert!(checksums_valid(&Packet::udp().over(Family::V6).without_checksum().build()).is_err());
    }

    #[test]
    fn endpoints_are_read_behind_options_extension_headers_and_tags() {
        for family in Family::ALL {
            let packet = Packet::udp().over(family).ip_options(&[1; 8]).to(family.vip_2(), 53);
            let frame = packet
                .extensions(&[Extension::Destination(2)])
                .tags(&[Tag::customer(1)])
                .build();
            let expected = (
                SocketAddr::new(family.client(1), 40_000),
                SocketAddr::new(family.vip_2(), 53),
            );
            assert_eq!(endpoints(&frame), Some(expected));
        }
        let later = Packet::udp().fragment(8, false).build();
        assert_eq!(endpoints(&later), None);
    }
}
