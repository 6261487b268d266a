//! Comparing and verifying frames, field by field.
//!
//! Fields are read leniently by the frame's own length fields, so that a damaged frame can be shown as well.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use crate::{checksum::Sum, names, packet::ETHERNET_LENGTH};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A named part of a frame.
struct Field {
    name: &'static str,
    value: String,
}

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
    let mut text = format!("  {:<16} {:<32} {}\n", "field", "actual", "expected");
    for (name, actual, expected) in aligned(&fields(actual), &fields(expected)) {
        let mark = if actual == expected { ' ' } else { '*' };
        // Writing to a string can't fail.
        let _ = writeln!(text, "{mark} {name:<16} {actual:<32} {expected}");
    }
    for (title, frame, other) in [("actual", actual, expected), ("expected", expected, actual)] {
        let _ = writeln!(text, "{title}, {} bytes", frame.len());
        text += &dump(frame, other);
    }
    Some(text)
}

/// Names of the fields in which two frames differ.
pub fn differing_fields(actual: &[u8], expected: &[u8]) -> Vec<&'static str> {
    aligned(&fields(actual), &fields(expected))
        .into_iter()
        .filter(|(_, actual, expected)| actual != expected)
        .map(|(name, ..)| name)
        .collect()
}

/// Rows of both frames side by side, fields that only one has against a dash.
fn aligned(actual: &[Field], expected: &[Field]) -> Vec<(&'static str, String, String)> {
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
        .map(|field| (field.name, value(actual, field.name), value(expected, field.name)))
        .collect()
}

/// Reads a frame in order and names what it read; what is missing at the end is not named.
struct Reader<'a> {
    frame: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl<'a> Reader<'a> {
    fn field(&mut self, name: &'static str, length: usize, show: impl FnOnce(&[u8]) -> String) -> &'a [u8] {
        let end = (self.at + length).min(self.frame.len());
        let bytes = &self.frame[self.at..end];
        self.at = end;
        if length != 0 && !bytes.is_empty() {
            let value = if bytes.len() == length {
                show(bytes)
            } else {
                format!("{} (cut short)", hex(bytes))
            };
            self.fields.push(Field { name, value });
        }
        bytes
    }

    fn number(&mut self, name: &'static str, length: usize) {
        self.field(name, length, |bytes| big_endian(bytes).to_string());
    }

    fn hex(&mut self, name: &'static str, length: usize) {
        self.field(name, length, hex);
    }
}

/// Every byte of the frame as part of exactly one field.
fn fields(frame: &[u8]) -> Vec<Field> {
    let mut reader = Reader {
        frame,
        at: 0,
        fields: Vec::new(),
    };
    for name in ["eth destination", "eth source"] {
        reader.field(name, 6, |bytes| {
            bytes.try_into().map_or_else(|_| hex(bytes), names::mac_text)
        });
    }
    let ether_type = reader.field("eth type", 2, hex);
    if ether_type == [0x08, 0x00] {
        read_ipv4(&mut reader);
    }
    let rest = reader.frame.len() - reader.at;
    reader.hex("trailer", rest);
    reader.fields
}

fn read_ipv4(reader: &mut Reader<'_>) {
    let start = reader.at;
    let first = reader.field("ip version, ihl", 1, |bytes| {
        format!("{}, {}", bytes[0] >> 4, bytes[0] & 0x0f)
    });
    reader.field("ip dscp, ecn", 1, |bytes| {
        format!("{}, {}", bytes[0] >> 2, bytes[0] & 0x03)
    });
    let total_length = reader.field("ip length", 2, |bytes| big_endian(bytes).to_string());
    reader.hex("ip id", 2);
    reader.field("ip fragment", 2, show_fragment);
    reader.number("ttl", 1);
    let protocol = reader.field("protocol", 1, |bytes| big_endian(bytes).to_string());
    reader.hex("ip checksum", 2);
    reader.field("source", 4, show_address);
    reader.field("destination", 4, show_address);
    let header_length = first.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
    reader.hex("ip options", header_length.saturating_sub(20));
    match protocol {
        [TCP] => read_tcp(reader),
        [UDP] => {
            reader.number("source port", 2);
            reader.number("destination port", 2);
            reader.number("udp length", 2);
            reader.hex("l4 checksum", 2);
        }
        _ => {}
    }
    let payload_end = start + big_endian(total_length);
    if reader.at < reader.frame.len() {
        let offset = reader.at.to_string();
        reader.fields.push(Field {
            name: "payload offset",
            value: offset,
        });
    }
    let payload_length = payload_end.min(reader.frame.len()).saturating_sub(reader.at);
    reader.hex("payload", payload_length);
}

fn read_tcp(reader: &mut Reader<'_>) {
    reader.number("source port", 2);
    reader.number("destination port", 2);
    reader.number("sequence", 4);
    reader.number("acknowledgment", 4);
    let offset = reader.field("tcp doff", 1, |bytes| {
        format!("{} ({:#x})", bytes[0] >> 4, bytes[0] & 0x0f)
    });
    reader.field("tcp flags", 1, show_flags);
    reader.number("window", 2);
    reader.hex("l4 checksum", 2);
    reader.number("urgent pointer", 2);
    let header_length = offset.first().map_or(0, |byte| usize::from(byte >> 4) * 4);
    reader.hex("tcp options", header_length.saturating_sub(20));
}

fn show_address(bytes: &[u8]) -> String {
    address(bytes).to_string()
}

fn show_fragment(bytes: &[u8]) -> String {
    let word = big_endian(bytes);
    let flags = ["-", "MF", "DF", "DF MF", "RES", "RES MF", "RES DF", "RES DF MF"][word >> 13];
    format!("{flags} {}", word & 0x1fff)
}

fn show_flags(bytes: &[u8]) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> = (0..8)
        .filter(|bit| bytes[0] >> bit & 1 == 1)
        .map(|bit| names[bit])
        .collect();
    if set.is_empty() {
        "none".to_owned()
    } else {
        set.join(" ")
    }
}

fn big_endian(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    <[u8; 4]>::try_from(bytes).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
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

/// Recomputes IP header checksum and TCP or UDP checksum of a frame in full and compares. A UDP checksum of zero is "none" and
/// right.
///
/// # Errors
///
/// Says which checksum is wrong with both values, or where the frame is too short or no IPv4 with TCP or UDP.
pub fn checksums_valid(frame: &[u8]) -> Result<(), String> {
    let ip = frame.get(ETHERNET_LENGTH..).ok_or("no whole ethernet header")?;
    if frame[12..14] != [0x08, 0x00] {
        return Err(format!("not ipv4: eth type {}", hex(&frame[12..14])));
    }
    let header_length = ip.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
    let header = ip
        .get(..header_length)
        .filter(|header| header.len() >= 20)
        .ok_or_else(|| format!("ip header of {header_length} bytes in a packet of {}", ip.len()))?;
    let total_length = big_endian(&header[2..4]);
    let segment = ip
        .get(header_length..total_length)
        .ok_or_else(|| format!("ip length {total_length}, header {header_length}, packet {}", ip.len()))?;
    verify("ip checksum", header, 10, Sum::default())?;

    let protocol = header[9];
    let checksum_at = match protocol {
        TCP => 16,
        UDP => 6,
        other => return Err(format!("protocol {other} is neither tcp nor udp")),
    };
    let stored = segment.get(checksum_at..checksum_at + 2);
    let stored = stored.ok_or_else(|| format!("{} bytes are no whole header of protocol {protocol}", segment.len()))?;
    if protocol == UDP && stored == [0, 0] {
        return Ok(());
    }
    let length = u16::try_from(segment.len()).map_err(|error| error.to_string())?;
    let pseudo_header =
        Sum::default().plus_pseudo_header(address(&header[12..16]), address(&header[16..20]), protocol, length);
    let name = if protocol == TCP {
        "tcp checksum"
    } else {
        "udp checksum"
    };
    verify(name, segment, checksum_at, pseudo_header)
}

/// Compares the checksum stored in `bytes` with a new one over `before` and `bytes`.
fn verify(name: &str, bytes: &[u8], at: usize, before: Sum) -> Result<(), String> {
    let (head, tail) = (&bytes[..at], &bytes[at + 2..]);
    let computed = before.plus(head).plus(tail).checksum();
    let stored = big_endian(&bytes[at..at + 2]);
    // 0x0000 and 0xffff are both zero in one's complement; UDP sends the latter (RFC 768).
    let same = stored == usize::from(computed) || (computed == 0 && stored == 0xffff);
    if same {
        Ok(())
    } else {
        Err(format!("{name} is {stored:#06x}, should be {computed:#06x}"))
    }
}

/// Source and destination of a frame with IPv4 and TCP or UDP; `None` for any other.
pub fn endpoints(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let ip = frame.get(ETHERNET_LENGTH..)?;
    let ports = ip.get(usize::from(ip.first()? & 0x0f) * 4..)?.get(..4)?;
    let is_flow = frame[12..14] == [0x08, 0x00] && matches!(ip.get(9)?, &TCP | &UDP);
    is_flow.then(|| {
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        (
            SocketAddrV4::new(address(&ip[12..16]), port(&ports[..2])),
            SocketAddrV4::new(address(&ip[16..20]), port(&ports[2..])),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Packet, TcpFlags};

    #[test]
    fn every_changed_byte_shows_in_at_least_one_field() {
        let packets = [
            Packet::tcp()
                .tcp_options(&[2, 4, 5, 180])
                .payload(b"data")
                .trailer(&[1, 2]),
            Packet::udp()
                .ip_options(&[0x94, 4, 0, 0])
                .payload(b"data")
                .trailer(&[1, 2]),
        ];
        for packet in packets {
            let expected = packet.build();
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
    fn truncated_frames_are_shown_and_refused_without_panic() {
        let whole = Packet::tcp().ip_options(&[0x94, 4, 0, 0]).payload(b"data").build();
        for length in 0..whole.len() {
            assert!(difference(&whole[..length], &whole).is_some());
            assert!(checksums_valid(&whole[..length]).is_err());
            let _ = endpoints(&whole[..length]);
        }
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
    }

    #[test]
    fn endpoints_are_read_behind_ip_options() {
        let frame = Packet::udp().ip_options(&[1; 8]).to(names::VIP_2, 53).build();
        let expected = (
            SocketAddrV4::new(names::CLIENT, 40_000),
            SocketAddrV4::new(names::VIP_2, 53),
        );
        assert_eq!(endpoints(&frame), Some(expected));
    }
}
