//! ICMP errors and the packet that they quote (RFC 792; RFC 4443, section 3; RFC 5508, section 4).

use super::{Even, Extent, Frame, Ip, Network, TCP_CHECKSUM, UDP_CHECKSUM};
use crate::{
    byte_order::Be16,
    flow::{FlowKey, protocol},
    verdict::PassReason,
};

/// Length of the ICMP header before the quoted packet.
pub const ICMP_HEADER: usize = 8;

/// L4 bytes that every error quotes at least (RFC 792): the ports, and UDP's whole header.
const QUOTED_L4: usize = 8;

/// Destination unreachable, time exceeded, parameter problem. Not source quench, which is obsolete (RFC 6633), nor redirect, which is
/// for this host if for anybody.
#[inline(always)]
pub const fn is_error_v4(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Destination unreachable, packet too big, time exceeded, parameter problem.
#[inline(always)]
pub const fn is_error_v6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// What an ICMP error says of the packet that it is about. All offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<A> {
    /// The tuple of the packet, as it was when the error was made.
    pub key: FlowKey<A>,
    /// Where its IP header begins.
    pub l3: usize,
    /// Where its L4 header begins.
    pub l4: usize,
    /// Where its L4 checksum stands; 0 where that is not quoted.
    pub checksum_at: usize,
    /// Memory image of that checksum.
    pub checksum: u16,
}

impl<A: Ip> Quote<A> {
    /// Reads the packet that is quoted in the ICMP error with the IP header `network`.
    ///
    /// # Errors
    ///
    /// Why it can't be about a connection.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(frame: &F, network: &Network<A>) -> Result<Self, PassReason> {
        let quoted = A::network(frame, network.l4 + ICMP_HEADER, Extent::Quoted)?;
        let end = network.l4 + usize::from(network.payload);
        if quoted.is_later_fragment() || quoted.protocol != protocol::TCP && quoted.protocol != protocol::UDP {
            return Err(PassReason::IcmpUnrelated);
        }
        if quoted.l4 + QUOTED_L4 > end {
            return Err(PassReason::Malformed);
        }
        let Even([source, destination]): Even<[[u8; 2]; 2]> = *frame.view(quoted.l4).ok_or(PassReason::Malformed)?;
        let field = if quoted.protocol == protocol::TCP {
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        };
        let mut quote = Self {
            key: FlowKey::new(
                (quoted.source, Be16::from_wire(source)),
                (quoted.destination, Be16::from_wire(destination)),
                quoted.protocol,
            ),
            l3: quoted.l3,
            l4: quoted.l4,
            checksum_at: 0,
            checksum: 0,
        };
        let at = quoted.l4 + field;
        if at + 2 <= end
            && let Some(checksum) = frame.view::<Even<[u8; 2]>>(at)
        {
            quote.checksum_at = at;
            quote.checksum = u16::from_ne_bytes(checksum.0);
        }
        Ok(quote)
    }
}
