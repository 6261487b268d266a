//! The Ethernet header and up to two VLAN tags (IEEE 802.3, section 3.2; 802.1Q, section 9).

use super::{Even, Frame};
use crate::{
    backend::{MacAddress, Tag, Tags},
    verdict::PassReason,
};

/// EtherTypes (IANA, "IEEE 802 Numbers").
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A customer VLAN tag.
    pub const CUSTOMER_TAG: u16 = 0x8100;
    /// A service VLAN tag.
    pub const SERVICE_TAG: u16 = 0x88a8;
}

/// Length of both Ethernet addresses in bytes: what follows is a tag, or the kind of the packet.
pub const ETHERNET_ADDRESSES: usize = 12;
/// Length of the Ethernet header without tags, in bytes.
pub const ETHERNET_HEADER: usize = 14;
/// Length of a VLAN tag in bytes.
pub const VLAN_TAG: usize = 4;
/// Length of the longest link header: Ethernet and two tags.
pub const MAX_LINK_HEADER: usize = ETHERNET_HEADER + 2 * VLAN_TAG;

/// What the link header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where the packet in the frame begins.
    pub l3: usize,
    /// Kind of that packet.
    pub ether_type: u16,
    /// Ethernet address of the receiver.
    pub destination: MacAddress,
    /// Ethernet address of the sender.
    pub source: MacAddress,
    /// VLAN tags.
    pub tags: Tags,
}

impl Link {
    /// Reads the link header.
    ///
    /// # Errors
    ///
    /// [`PassReason::Malformed`] when the frame ends within, [`PassReason::NotUnicast`] for a frame to a group.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(frame: &F) -> Result<Self, PassReason> {
        let Even([destination, source]): Even<[MacAddress; 2]> = *frame.view(0).ok_or(PassReason::Malformed)?;
        let Even(ether_type): Even<[u8; 2]> = *frame.view(ETHERNET_ADDRESSES).ok_or(PassReason::Malformed)?;
        /// The bit that tells groups from single stations (IEEE 802.3, section 3.2.3).
        const GROUP: u8 = 0x01;
        if destination[0] & GROUP != 0 {
            return Err(PassReason::NotUnicast);
        }
        let mut link = Self {
            l3: ETHERNET_HEADER,
            ether_type: u16::from_be_bytes(ether_type),
            destination,
            source,
            tags: Tags::NONE,
        };
        if is_tag(link.ether_type) {
            let (outer, ether_type) = tag(frame, ETHERNET_HEADER, link.ether_type)?;
            link.tags.outer = outer;
            link.ether_type = ether_type;
            link.l3 = ETHERNET_HEADER + VLAN_TAG;
            if is_tag(ether_type) {
                let (inner, ether_type) = tag(frame, ETHERNET_HEADER + VLAN_TAG, ether_type)?;
                link.tags.inner = inner;
                link.ether_type = ether_type;
                link.l3 = ETHERNET_HEADER + 2 * VLAN_TAG;
            }
        }
        Ok(link)
    }
}

#[inline(always)]
const fn is_tag(ether_type: u16) -> bool {
    ether_type == ether_type::CUSTOMER_TAG || ether_type == ether_type::SERVICE_TAG
}

/// The tag of the kind `ether_type` whose control information is at `at`, and the EtherType of what it holds.
#[inline(always)]
fn tag<F: Frame + ?Sized>(frame: &F, at: usize, ether_type: u16) -> Result<(Tag, u16), PassReason> {
    let Even([control, next]): Even<[[u8; 2]; 2]> = *frame.view(at).ok_or(PassReason::Malformed)?;
    let vlan = u16::from_be_bytes(control);
    let tag = if ether_type == ether_type::SERVICE_TAG {
        Tag::service(vlan)
    } else {
        Tag::customer(vlan)
    };
    Ok((tag, u16::from_be_bytes(next)))
}
