//! A frame that came in, read by the product's parser.

use std::net::IpAddr;

use lb_common::{
    address::{V4, V6},
    backend::NextHop,
    connection::Seen,
    flow::protocol,
    packet::{Extent, Frame as _, Link, Network, Packet, Quote, ether_type},
    verdict::PassReason,
};

use super::flow::{Family, Flow};

/// A frame with an IP packet.
pub(super) struct Arrival<'a> {
    pub(super) frame: &'a [u8],
    pub(super) ifindex: u32,
    pub(super) link: Link,
    pub(super) ip: Network<IpAddr>,
}

/// What an IP packet holds.
pub(super) enum Content {
    /// A piece without an L4 header.
    LaterFragment,
    /// An ICMP message of its family.
    Icmp,
    /// TCP or UDP.
    Segment(Segment),
}

/// What the L4 header says.
pub(super) struct Segment {
    pub(super) flow: Flow,
    pub(super) seen: Seen,
    /// Bytes that the checksum covers.
    pub(super) length: u16,
    /// Whether the checksum looks unfinished.
    pub(super) partial: bool,
}

/// The packet that an ICMP error quotes. Offsets are from the start of the frame.
pub(super) struct Quoted {
    pub(super) flow: Flow,
    pub(super) l3: usize,
    pub(super) l4: usize,
    /// Where its checksum is, if it is quoted.
    pub(super) checksum_at: Option<usize>,
}

impl<'a> Arrival<'a> {
    pub(super) fn read(frame: &'a [u8], ifindex: u32) -> Result<Self, PassReason> {
        let link = Link::read(frame)?;
        let ip = match link.ether_type {
            ether_type::IPV4 => network::<V4>(frame, link.l3)?,
            ether_type::IPV6 => network::<V6>(frame, link.l3)?,
            _ => return Err(PassReason::NotIp),
        };
        Ok(Self {
            frame,
            ifindex,
            link,
            ip,
        })
    }

    pub(super) const fn is_v4(&self) -> bool {
        self.ip.source.is_ipv4()
    }

    /// Number of the ICMP of this family.
    pub(super) const fn icmp(&self) -> u8 {
        if self.is_v4() {
            protocol::ICMP
        } else {
            protocol::ICMP_V6
        }
    }

    /// The frame up to the end of the IP packet.
    pub(super) fn packet_in_frame(&self) -> &'a [u8] {
        &self.frame[..self.link.l3 + usize::from(self.ip.length)]
    }

    /// What the packet holds behind its IP header.
    pub(super) fn payload(&self) -> &'a [u8] {
        &self.packet_in_frame()[self.ip.l4..]
    }

    /// The way back to who sent the frame.
    pub(super) const fn way_back(&self, mtu: u16) -> NextHop {
        NextHop::new(
            self.ifindex,
            self.link.source,
            self.link.destination,
            self.link.tags,
            mtu,
        )
    }

    pub(super) fn content(&self) -> Result<Content, PassReason> {
        if self.ip.fragment_offset != 0 {
            return Ok(Content::LaterFragment);
        }
        if self.ip.protocol == self.icmp() {
            return Ok(Content::Icmp);
        }
        let segment = if self.is_v4() {
            self.segment::<V4>()
        } else {
            self.segment::<V6>()
        };
        segment.map(Content::Segment)
    }

    fn segment<A: Family>(&self) -> Result<Segment, PassReason> {
        let network = A::network(self.frame, self.link.l3, Extent::Whole)?;
        let packet = Packet::read(self.frame, self.ifindex, &self.link, &network)?;
        Ok(Segment {
            flow: Flow::of(&packet.key),
            seen: packet.seen,
            length: packet.l4_length,
            partial: packet.partial,
        })
    }

    pub(super) fn quoted(&self) -> Result<Quoted, PassReason> {
        if self.is_v4() {
            self.quote::<V4>()
        } else {
            self.quote::<V6>()
        }
    }

    fn quote<A: Family>(&self) -> Result<Quoted, PassReason> {
        let network = A::network(self.frame, self.link.l3, Extent::Whole)?;
        let quote = Quote::read(self.frame, &network)?;
        Ok(Quoted {
            flow: Flow::of(&quote.key),
            l3: quote.l3,
            l4: quote.l4,
            checksum_at: (quote.checksum_at != 0).then_some(quote.checksum_at),
        })
    }
}

fn network<A: Family>(frame: &[u8], l3: usize) -> Result<Network<IpAddr>, PassReason> {
    let network = A::network(frame, l3, Extent::Whole)?;
    assert!(frame.reaches(l3 + usize::from(network.length)), "the parser checked it");
    Ok(Network {
        source: network.source.ip(),
        destination: network.destination.ip(),
        l3: network.l3,
        l4: network.l4,
        id_at: network.id_at,
        id: network.id,
        length: network.length,
        payload: network.payload,
        fragment_offset: network.fragment_offset,
        more_fragments: network.more_fragments,
        protocol: network.protocol,
        ttl: network.ttl,
    })
}
