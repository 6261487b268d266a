//! Writing the decision into the packet: the only stage that changes one that goes on.

use lb_common::{
    backend::{NextHop, Tags},
    checksum::TupleDelta,
    connection::Direction,
    packet::{Even, Packet},
    verdict::Verdict,
};

use crate::{context::Context, family::Family, link, route::Route};

/// Rewrites Ethernet addresses, VLAN tags, IP addresses, ports, time to live and checksums, and nothing else.
#[inline(always)]
pub(crate) fn rewrite<F: Family, C: Context>(
    ctx: C,
    packet: &mut Packet<F>,
    from: Tags,
    route: &Route<F>,
    next_hop: &NextHop,
) -> Result<(), Verdict> {
    let delta = TupleDelta::between(&packet.key, &route.to);
    let l3 = link::write::<F, C>(ctx, packet.l3, from, next_hop)?;
    packet.l4 = packet.l4 - packet.l3 + l3;
    packet.l3 = l3;

    if matches!(route.direction, Direction::Direct) {
        if packet.partial {
            ctx.finish_l4_checksum(packet, &route.to, &delta)?;
        }
        return Ok(());
    }
    F::rewrite(ctx, packet.l3, &route.to, &delta, packet.ttl - 1)?;

    /// Source and destination port, which TCP and UDP have in the same place.
    type Ports = Even<[[u8; 2]; 2]>;
    let ports: *mut Ports = ctx.still_at(packet.l4)?;
    // SAFETY: `still_at` checked the bounds; a header begins at an even address.
    unsafe { *ports = Even([route.to.source_port.to_wire(), route.to.destination_port.to_wire()]) };

    ctx.finish_l4_checksum(packet, &route.to, &delta)
}
