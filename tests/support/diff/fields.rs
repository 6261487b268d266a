//! The fields of a frame, in order, read leniently: every byte is part of exactly one.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    layers::{self, ICMP, ICMPV6, TCP, UDP},
    names::{self, Family},
};

/// A named part of a frame.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
}

/// Every byte of the frame as part of exactly one field.
pub(super) fn fields(frame: &[u8]) -> Vec<Field> {
    let mut reader = Reader {
        bytes: frame,
        at: 0,
        prefix: "",
        fields: Vec::new(),
    };
    for name in ["eth destination", "eth source"] {
        reader.field(name, 6, |bytes| {
            bytes.try_into().map_or_else(|_| hex(bytes), names::mac_text)
        });
    }
    for tag in 1.. {
        if !matches!(reader.peek(), [0x81, 0x00, ..] | [0x88, 0xa8, ..]) {
            break;
        }
        reader.hex(&format!("tag {tag} type"), 2);
        reader.field(&format!("tag {tag}"), 2, show_tag);
    }
    match reader.field("eth type", 2, hex) {
        [0x08, 0x00] => read_ipv4(&mut reader),
        [0x86, 0xdd] => read_ipv6(&mut reader),
        _ => {}
    }
    reader.rest("trailer");
    reader.fields
}

/// Reads bytes in order and names what it read; what is missing at the end is not named.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Put before every name.
    prefix: &'static str,
    fields: Vec<Field>,
}

impl<'a> Reader<'a> {
    /// What has not been read yet.
    fn peek(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let rest = self.peek();
        let taken = &rest[..length.min(rest.len())];
        self.at += taken.len();
        taken
    }

    fn name(&mut self, name: &str, value: String) {
        let name = format!("{}{name}", self.prefix);
        self.fields.push(Field { name, value });
    }

    fn field(&mut self, name: &str, length: usize, show: impl FnOnce(&[u8]) -> String) -> &'a [u8] {
        let bytes = self.take(length);
        if !bytes.is_empty() {
            let value = if bytes.len() == length {
                show(bytes)
            } else {
                format!("{} (cut short)", hex(bytes))
            };
            self.name(name, value);
        }
        bytes
    }

    fn number(&mut self, name: &str, length: usize) -> &'a [u8] {
        self.field(name, length, |bytes| big_endian(bytes).to_string())
    }

    fn hex(&mut self, name: &str, length: usize) {
        self.field(name, length, hex);
    }

    /// All that is left.
    fn rest(&mut self, name: &str) {
        self.hex(name, self.peek().len());
    }

    /// Reads something inside the next `length` bytes, and what it leaves of them as `remainder`.
    fn within(&mut self, length: usize, remainder: &str, read: impl FnOnce(&mut Self)) {
        let end = (self.at + length).min(self.bytes.len());
        let whole = self.bytes;
        self.bytes = &whole[..end];
        read(self);
        self.rest(remainder);
        self.bytes = whole;
    }
}

fn read_ipv4(reader: &mut Reader<'_>) {
    let start = reader.at;
    let first = reader.field("ip version, ihl", 1, |bytes| {
        format!("{}, {}", bytes[0] >> 4, bytes[0] & 0x0f)
    });
    reader.field("ip dscp, ecn", 1, |bytes| show_traffic_class(bytes[0]));
    let total_length = big_endian(reader.number("ip length", 2));
    reader.hex("ip id", 2);
    let fragment = reader.field("ip fragment", 2, show_fragment);
    reader.number("ttl", 1);
    let protocol = reader.number("protocol", 1);
    reader.hex("ip checksum", 2);
    reader.field("source", 4, show_ipv4_address);
    reader.field("destination", 4, show_ipv4_address);
    let header_length = first.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
    reader.hex("ip options", header_length.saturating_sub(20));
    let begins_segment = big_endian(fragment) & 0x1fff == 0;
    let protocol = protocol.first().copied().filter(|_| begins_segment);
    read_segment(reader, Family::V4, protocol, start + total_length);
}

fn read_ipv6(reader: &mut Reader<'_>) {
    let start = reader.at;
    if reader.peek().len() < 4 {
        reader.rest("ip version");
        return;
    }
    let first = big_endian(reader.take(4));
    reader.name("ip version", (first >> 28).to_string());
    reader.name(
        "ip dscp, ecn",
        show_traffic_class((first >> 20 & 0xff).to_be_bytes()[7]),
    );
    reader.name("flow label", format!("{:#07x}", first & 0xf_ffff));
    let payload_length = big_endian(reader.number("ip length", 2));
    let mut next = reader.number("protocol", 1).first().copied();
    reader.number("ttl", 1);
    reader.field("source", 16, show_ipv6_address);
    reader.field("destination", 16, show_ipv6_address);
    for number in 1.. {
        let Some(kind) = next else { break };
        let start = reader.peek();
        let Some(length) = layers::extension_length(kind, start.get(..2)) else {
            break;
        };
        let bytes = reader.field(&format!("extension {number}"), length, |bytes| {
            format!("{} {}", extension_name(kind), hex(bytes))
        });
        next = bytes.first().copied();
        if kind == 44 && big_endian(bytes.get(2..4).unwrap_or_default()) >> 3 != 0 {
            next = None;
        }
    }
    read_segment(reader, Family::V6, next, start + 40 + payload_length);
}

/// What stands behind the network header, up to this offset, by its protocol if it begins here.
fn read_segment(reader: &mut Reader<'_>, family: Family, protocol: Option<u8>, end: usize) {
    match (family, protocol) {
        (_, Some(TCP)) => read_tcp(reader),
        (_, Some(UDP)) => {
            reader.number("source port", 2);
            reader.number("destination port", 2);
            reader.number("udp length", 2);
            reader.hex("l4 checksum", 2);
        }
        (Family::V4, Some(ICMP)) | (Family::V6, Some(ICMPV6)) => read_icmp(reader, family, end),
        _ => {}
    }
    if !reader.peek().is_empty() {
        reader.name("payload offset", reader.at.to_string());
    }
    reader.hex("payload", end.saturating_sub(reader.at));
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

/// An ICMP message. An error's quote is read like a packet, its names with "quoted" before them; a quote in a quote is not.
fn read_icmp(reader: &mut Reader<'_>, family: Family, end: usize) {
    let message = reader.peek();
    let message = &message[..end.saturating_sub(reader.at).min(message.len())];
    let kind = reader.number("icmp type", 1).first().copied();
    reader.number("icmp code", 1);
    reader.hex("icmp checksum", 2);
    let is_error = kind.is_some_and(|kind| layers::quotes_a_packet(family, kind));
    if !is_error {
        reader.hex("icmp id", 2);
        reader.number("icmp sequence", 2);
        return;
    }
    reader.hex("icmp rest", 4);
    if !reader.prefix.is_empty() {
        return;
    }
    let (quote, extension) = layers::quote_and_extension(family, message);
    reader.within(quote.len(), "quote padding", |reader| {
        reader.prefix = "quoted ";
        match family {
            Family::V4 => read_ipv4(reader),
            Family::V6 => read_ipv6(reader),
        }
        reader.prefix = "";
    });
    reader.hex("icmp extension", extension.len());
}

fn extension_name(number: u8) -> String {
    match number {
        0 => "hop-by-hop".to_owned(),
        43 => "routing".to_owned(),
        44 => "fragment".to_owned(),
        51 => "authentication".to_owned(),
        60 => "destination".to_owned(),
        135 => "mobility".to_owned(),
        other => other.to_string(),
    }
}

fn show_tag(bytes: &[u8]) -> String {
    let control = big_endian(bytes);
    let drop_eligible = if control & 0x1000 == 0 { "" } else { " drop eligible" };
    format!("vlan {} priority {}{drop_eligible}", control & 0x0fff, control >> 13)
}

fn show_traffic_class(byte: u8) -> String {
    format!("{}, {}", byte >> 2, byte & 0x03)
}

fn show_ipv4_address(bytes: &[u8]) -> String {
    <[u8; 4]>::try_from(bytes).map_or_else(|_| hex(bytes), |octets| Ipv4Addr::from(octets).to_string())
}

fn show_ipv6_address(bytes: &[u8]) -> String {
    <[u8; 16]>::try_from(bytes).map_or_else(|_| hex(bytes), |octets| Ipv6Addr::from(octets).to_string())
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

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}
