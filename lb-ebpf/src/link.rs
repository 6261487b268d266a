//! Writing the link header.

use lb_common::{
    backend::{NextHop, Tag, Tags},
    packet::{ETHERNET_ADDRESSES, ETHERNET_HEADER, Even, Ip, Plain, VLAN_TAG, ether_type},
    verdict::Verdict,
};

use crate::context::Context;

/// Writes the Ethernet addresses and tags of `next_hop` in front of a packet that came with the tags `from`. Returns where the packet
/// begins now.
#[inline(always)]
pub(crate) fn write<A: Ip, C: Context>(ctx: C, l3: usize, from: Tags, next_hop: &NextHop) -> Result<usize, Verdict> {
    let mut l3 = l3;
    if from != next_hop.tags {
        let priority = priority(ctx, from);
        ctx.change_tags(from, next_hop.tags)?;
        l3 = ETHERNET_HEADER + VLAN_TAG * C::tags_in_frame(next_hop.tags);
        write_tags::<A, C>(ctx, next_hop.tags, priority)?;
    }
    write_addresses(ctx, next_hop)?;
    Ok(l3)
}

/// Writes the whole link header for `next_hop`, whatever stands there. Tags get the lowest priority.
#[inline(always)]
pub(crate) fn write_whole<A: Ip, C: Context>(ctx: C, next_hop: &NextHop) -> Result<(), Verdict> {
    write_tags::<A, C>(ctx, next_hop.tags, 0)?;
    write_addresses(ctx, next_hop)
}

#[inline(always)]
fn write_addresses<C: Context>(ctx: C, next_hop: &NextHop) -> Result<(), Verdict> {
    let addresses: *mut Even<[[u8; 6]; 2]> = ctx.still_at(0)?;
    // SAFETY: `still_at` checked the bounds; a frame begins at an even address.
    unsafe { *addresses = Even([next_hop.destination, next_hop.source]) };
    Ok(())
}

/// The priority bits of the first tag, which it keeps (IEEE 802.1Q, section 6.9.3), in the byte that has them.
#[inline(always)]
fn priority<C: Context>(ctx: C, tags: Tags) -> u8 {
    const PRIORITY: u8 = 0xf0;
    if C::tags_in_frame(tags) == 0 {
        return 0;
    }
    ctx.view::<[u8; 2]>(ETHERNET_HEADER)
        .map_or(0, |[first, _]| first & PRIORITY)
}

/// Writes the tags, and the kind of the packet behind them.
#[inline(always)]
fn write_tags<A: Ip, C: Context>(ctx: C, tags: Tags, priority: u8) -> Result<(), Verdict> {
    let packet = A::ETHER_TYPE.to_be_bytes();
    match C::tags_in_frame(tags) {
        0 => put(ctx, packet),
        1 => {
            // The kernel may hold the outer one of two beside the frame.
            let in_frame = if tags.count() == 2 { tags.inner } else { tags.outer };
            let [kind, control] = bytes_of(in_frame, priority);
            put(ctx, [kind, control, packet])
        }
        _ => {
            let [outer_kind, outer] = bytes_of(tags.outer, priority);
            let [inner_kind, inner] = bytes_of(tags.inner, priority);
            put(ctx, [outer_kind, outer, inner_kind, inner, packet])
        }
    }
}

/// Writes what follows the Ethernet addresses.
#[inline(always)]
fn put<T: Plain, C: Context>(ctx: C, bytes: T) -> Result<(), Verdict> {
    let place: *mut Even<T> = ctx.still_at(ETHERNET_ADDRESSES)?;
    // SAFETY: `still_at` checked the bounds; a frame begins at an even address.
    unsafe { *place = Even(bytes) };
    Ok(())
}

/// A tag as it stands in the frame: kind, then control information.
#[inline(always)]
const fn bytes_of(tag: Tag, priority: u8) -> [[u8; 2]; 2] {
    let kind = if tag.is_service() {
        ether_type::SERVICE_TAG
    } else {
        ether_type::CUSTOMER_TAG
    };
    let [high, low] = tag.vlan().to_be_bytes();
    [kind.to_be_bytes(), [high | priority, low]]
}
