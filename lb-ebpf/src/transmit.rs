//! Where a packet leaves, and whether it can.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use lb_common::{
    backend::NextHop,
    verdict::{DropReason, PassReason, Verdict},
};

use crate::{context::Context, family::Family, parse::Packet, route::Route};

/// The next hop of a packet: the one that is cached, else what the kernel's routing table says.
#[inline(always)]
pub(crate) fn next_hop<F: Family, C: Context>(
    ctx: &C,
    packet: &Packet<F>,
    route: &Route<F>,
) -> Result<NextHop, Verdict> {
    if packet.ttl <= 1 {
        // The kernel gets the packet as it came: it sends a time exceeded, unless it owns the VIP and is the destination itself.
        return Err(PassReason::TtlExpired.into());
    }
    if route.mtu != 0 && packet.length > route.mtu && !ctx.is_segmented_later() {
        return Err(DropReason::TooBig.into());
    }
    if route.next_hop.is_known() {
        return Ok(route.next_hop);
    }
    look_up(ctx, packet, route)
}

#[inline(always)]
fn look_up<F: Family, C: Context>(ctx: &C, packet: &Packet<F>, route: &Route<F>) -> Result<NextHop, Verdict> {
    // SAFETY: plain numbers and unions of them; all zeros is a value, and the helper reads every byte.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.l4_protocol = route.to.protocol;
    params.ifindex = ctx.ifindex();
    if !ctx.is_segmented_later() {
        params.__bindgen_anon_1.tot_len = packet.length;
    }
    F::set_fib_addresses(&mut params, &route.to);
    match u32::try_from(ctx.fib_lookup(&mut params)) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => Ok(NextHop {
            ifindex: params.ifindex,
            destination: params.dmac,
            source: params.smac,
        }),
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Err(DropReason::NoNeighbor.into()),
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Err(DropReason::TooBig.into()),
        _ => Err(DropReason::NoRoute.into()),
    }
}
