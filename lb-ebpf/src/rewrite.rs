//! Writing the decision into the packet: the only stage that changes it.

use lb_common::{backend::NextHop, checksum::TupleDelta, verdict::Verdict};
use network_types::eth::EthHdr;

use crate::{context::Context, family::Family, parse::Packet, route::Route};

/// Rewrites Ethernet addresses, IP addresses, ports, time to live and checksums, and nothing else.
#[inline(always)]
pub(crate) fn rewrite<F: Family, C: Context>(
    ctx: &C,
    packet: &Packet<F>,
    route: &Route<F>,
    next_hop: &NextHop,
) -> Result<(), Verdict> {
    let delta = TupleDelta::between(&packet.key, &route.to);

    let ethernet: *mut EthHdr = ctx.still_at(0)?;
    // SAFETY: `still_at` checked the bounds; the fields that are written are bytes.
    unsafe {
        (*ethernet).dst_addr = next_hop.destination;
        (*ethernet).src_addr = next_hop.source;
    }

    F::rewrite(ctx, &route.to, &delta)?;

    /// Source and destination port, which TCP and UDP have in the same place.
    type Ports = [[u8; 2]; 2];
    let ports: *mut Ports = ctx.still_at(packet.l4)?;
    // SAFETY: `still_at` checked the bounds; bytes have no alignment.
    unsafe { *ports = [route.to.source_port.to_wire(), route.to.destination_port.to_wire()] };

    ctx.finish_l4_checksum(packet, &route.to, &delta)
}
