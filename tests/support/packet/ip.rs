//! The network header of a packet: IPv4 with options, or IPv6 with extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpAuthHeader, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6FragmentHeader,
    Ipv6Header, Ipv6RawExtHeader,
};

use super::{Overrides, wrapped};
use crate::{checksum::Sum, names::Family};

/// An IPv6 extension header (RFC 8200, section 4). They stand in a packet as given, whether or not the RFC knows such an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options that nobody knows and everybody skips: this many units of 8 bytes beyond the first.
    HopByHop(u8),
    /// Destination options of the same kind: this many units of 8 bytes beyond the first.
    Destination(u8),
    /// A routing header with one address, the packet's own destination, so that the checksum is right whoever reads it.
    Routing {
        /// Its type: 0 is deprecated, 2 mobility, 4 segment routing.
        kind: u8,
        /// Nodes still to be visited.
        segments_left: u8,
    },
    /// A fragment header.
    Fragment {
        /// In units of 8 bytes (13 bits; others are cut off).
        offset: u16,
        /// Whether more is to come.
        more: bool,
        /// Identification.
        id: u32,
    },
    /// Authentication (RFC 4302), with a check value of 12 bytes.
    Authentication,
    /// Mobility (RFC 6275), with 8 bytes.
    Mobility,
    /// Any other number, with 8 bytes laid out as most are.
    Other(u8),
    /// "No next header": the number alone. What follows is not meant to be read.
    NoNextHeader,
}

impl Extension {
    /// Its number in the "next header" field before it.
    const fn number(self) -> IpNumber {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::Destination(_) => IpNumber::IPV6_DESTINATION_OPTIONS,
            Self::Routing { .. } => IpNumber::IPV6_ROUTE_HEADER,
            Self::Fragment { .. } => IpNumber::IPV6_FRAGMENTATION_HEADER,
            Self::Authentication => IpNumber::AUTHENTICATION_HEADER,
            Self::Mobility => IpNumber::MOBILITY_HEADER,
            Self::Other(number) => IpNumber(number),
            Self::NoNextHeader => IpNumber::IPV6_NO_NEXT_HEADER,
        }
    }

    fn bytes(self, next: IpNumber, destination: Ipv6Addr) -> Vec<u8> {
        let raw = |content: &[u8]| {
            // Every content here fills units of 8 bytes, which is all that can be wrong with it.
            Ipv6RawExtHeader::new_raw(next, content).map_or_else(|_| Vec::new(), |header| header.to_bytes().to_vec())
        };
        match self {
            Self::HopByHop(units) | Self::Destination(units) => raw(&options(units)),
            Self::Routing { kind, segments_left } => {
                let mut content = vec![kind, segments_left, 0, 0, 0, 0];
                content.extend(destination.octets());
                raw(&content)
            }
            Self::Fragment { offset, more, id } => {
                let offset = IpFragOffset::try_new(offset & 0x1fff).unwrap_or_default();
                Ipv6FragmentHeader::new(next, offset, more, id).to_bytes().to_vec()
            }
            Self::Authentication => IpAuthHeader::new(next, 0x1001, 1, &[0xab; 12])
                .map_or_else(|_| Vec::new(), |header| header.to_bytes().to_vec()),
            Self::Mobility | Self::Other(_) => raw(&[0; 6]),
            Self::NoNextHeader => Vec::new(),
        }
    }
}

/// Options that fill a header of this many units of 8 bytes beyond the first. They are of a type for experiments that is skipped by
/// who does not know it (RFC 4727, section 3.1): of plain padding Linux takes 7 bytes at most, and of options 8.
fn options(units: u8) -> Vec<u8> {
    const EXPERIMENT: u8 = 0x1e;
    let mut left = 6 + 8 * usize::from(units);
    let mut options = Vec::with_capacity(left);
    while left > 0 {
        // All of it is even, so no single byte is left over, which could not be such an option.
        let length = left.min(256);
        let content = u8::try_from(length - 2).unwrap_or(0);
        options.extend([EXPERIMENT, content]);
        options.resize(options.len() + usize::from(content), 0);
        left -= length;
    }
    options
}

/// What stands in a network header, for both families; each reads what it has a place for.
#[derive(Clone, Debug)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) ttl: u8,
    pub(super) dscp: IpDscp,
    pub(super) ecn: IpEcn,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) fragment: Option<(IpFragOffset, bool)>,
    pub(super) options: Ipv4Options,
    pub(super) flow_label: Ipv6FlowLabel,
    pub(super) extensions: Vec<Extension>,
}

impl Ip {
    pub(super) fn new(family: Family) -> Self {
        Self {
            source: family.client(1),
            destination: family.vip(),
            ttl: 63,
            dscp: IpDscp::default(),
            ecn: IpEcn::default(),
            id: 0x1234,
            dont_fragment: true,
            fragment: None,
            options: Ipv4Options::default(),
            flow_label: Ipv6FlowLabel::default(),
            extensions: Vec::new(),
        }
    }

    pub(super) const fn family(&self) -> Family {
        Family::of(self.source)
    }

    /// Sets the source. If it is of another family, the destination becomes that family's VIP.
    pub(super) fn set_source(&mut self, address: IpAddr) {
        self.source = address;
        if Family::of(self.destination) != Family::of(address) {
            self.destination = Family::of(address).vip();
        }
    }

    /// Sets the destination. If it is of another family, the source becomes that family's first client.
    pub(super) fn set_destination(&mut self, address: IpAddr) {
        self.destination = address;
        if Family::of(self.source) != Family::of(address) {
            self.source = Family::of(address).client(1);
        }
    }

    /// The header, extension headers included, over a segment of this length.
    pub(super) fn header(
        &self,
        protocol: u8,
        segment_length: usize,
        overrides: &Overrides,
        bad_checksum: bool,
    ) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6_header(source, destination, protocol, segment_length, overrides)
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = self.ipv4_header(source, destination, protocol, segment_length, overrides);
                let mut checksum = Sum::default().plus(&bytes).checksum();
                if bad_checksum {
                    checksum ^= 0x5555;
                }
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }
            _ => unreachable!("the setters keep both addresses in one family"),
        }
    }

    /// The header with a checksum of zero.
    fn ipv4_header(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        segment_length: usize,
        overrides: &Overrides,
    ) -> Vec<u8> {
        let (fragment_offset, more_fragments) = self.fragment.unwrap_or_default();
        let mut header = Ipv4Header {
            dscp: self.dscp,
            ecn: self.ecn,
            total_len: 0,
            identification: self.id,
            dont_fragment: self.dont_fragment,
            more_fragments,
            fragment_offset,
            time_to_live: self.ttl,
            protocol: IpNumber(protocol),
            header_checksum: 0,
            source: source.octets(),
            destination: destination.octets(),
            options: self.options.clone(),
        };
        let length = wrapped(header.header_len() + segment_length);
        header.total_len = overrides.total_length.unwrap_or(length);
        let mut bytes = header.to_bytes().to_vec();
        if let Some(version) = overrides.version {
            bytes[0] = version << 4 | bytes[0] & 0x0f;
        }
        if let Some(ihl) = overrides.ihl {
            bytes[0] = bytes[0] & 0xf0 | ihl & 0x0f;
        }
        bytes
    }

    fn ipv6_header(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: u8,
        segment_length: usize,
        overrides: &Overrides,
    ) -> Vec<u8> {
        let own_fragment = self.fragment.map(|(offset, more)| Extension::Fragment {
            offset: offset.value(),
            more,
            id: self.id.into(),
        });
        // From the last to the first, each naming what stands behind it.
        let (mut next, mut extensions) = (IpNumber(protocol), Vec::new());
        for extension in self.extensions.iter().copied().chain(own_fragment).rev() {
            extensions.splice(0..0, extension.bytes(next, destination));
            next = extension.number();
        }
        let length = wrapped(extensions.len() + segment_length);
        let header = Ipv6Header {
            traffic_class: self.dscp.value() << 2 | self.ecn.value(),
            flow_label: self.flow_label,
            payload_length: overrides.total_length.unwrap_or(length),
            next_header: next,
            hop_limit: self.ttl,
            source: source.octets(),
            destination: destination.octets(),
        };
        let mut bytes = header.to_bytes().to_vec();
        if let Some(version) = overrides.version {
            bytes[0] = version << 4 | bytes[0] & 0x0f;
        }
        bytes.extend(extensions);
        bytes
    }
}
