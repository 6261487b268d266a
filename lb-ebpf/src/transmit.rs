//! Where a packet leaves, and whether it can.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use lb_common::{
    backend::{NextHop, Tags},
    connection::Direction,
    flow::FlowKey,
    packet::Packet,
    verdict::{DropReason, Refusal, Verdict},
};

use crate::{context::Context, family::Family, maps, route::Route, scratch};

/// The next hop of a packet: the one that is cached, else what the kernel's routing table says.
#[inline(always)]
pub(crate) fn next_hop<F: Family, C: Context>(
    ctx: C,
    packet: &Packet<F>,
    route: &Route<F>,
) -> Result<NextHop, Verdict> {
    if packet.ttl <= 1 && !matches!(route.direction, Direction::Direct) {
        return Err(Refusal::TTL_EXPIRED.into());
    }
    let length = ctx.segment_length(packet);
    let next_hop = if route.next_hop.is_known() {
        route.next_hop
    } else {
        look_up::<F, C>(ctx, &route.to, length)?
    };
    if next_hop.mtu != 0 && length > u32::from(next_hop.mtu) {
        return Err(Refusal::too_big(next_hop.mtu).into());
    }
    Ok(next_hop)
}

/// Asks the kernel for the way of a packet with the tuple `to`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a packet's length is 16 bits wide")]
pub(crate) fn look_up<F: Family, C: Context>(ctx: C, to: &FlowKey<F>, length: u32) -> Result<NextHop, Verdict> {
    const WORDS: usize = size_of::<bpf_fib_lookup>() / 8;
    let words = scratch::borrow::<[u64; WORDS]>().ok_or(DropReason::NoRoute)?;
    for index in 0..WORDS {
        // Volatile, or it becomes a call of `memset`, which on the BPF target clears byte by byte.
        // SAFETY: within valid, aligned memory of this CPU.
        unsafe { words.cast::<u64>().add(index).write_volatile(0) };
    }
    // SAFETY: as above, of this size. Plain numbers and unions of them; all zeros is a value, and the helper reads every byte.
    let params = unsafe { &mut *words.cast::<bpf_fib_lookup>() };
    params.l4_protocol = to.protocol;
    params.ifindex = ctx.ifindex();
    params.__bindgen_anon_1.tot_len = length as u16;
    F::set_fib_addresses(params, to);
    match u32::try_from(ctx.fib_lookup(params)) {
        Ok(BPF_FIB_LKUP_RET_SUCCESS) => Ok(out_of(params.ifindex, params)),
        Ok(BPF_FIB_LKUP_RET_NO_NEIGH) => Err(DropReason::NoNeighbor.into()),
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => {
            // SAFETY: the kernel writes the MTU there with this result (kernel 5.12).
            let mtu = unsafe { params.__bindgen_anon_1.mtu_result };
            Err(Refusal::too_big(mtu).into())
        }
        _ => Err(DropReason::NoRoute.into()),
    }
}

/// The way out of the interface that a routing lookup named: through the device below, with its tags, where it is a VLAN device.
#[inline(always)]
fn out_of(ifindex: u32, params: &bpf_fib_lookup) -> NextHop {
    // SAFETY: the value is copied field by field; one that is written meanwhile serves this packet half old, half new at worst.
    let (target, tags) = match unsafe { maps::INTERFACES.get(ifindex) } {
        Some(interface) => (interface.target, interface.tags),
        None => (ifindex, Tags::NONE),
    };
    NextHop::new(target, params.dmac, params.smac, tags, 0)
}

/// Largest packet that leaves by the interface on which a packet came in, in bytes; 0 while unknown.
#[inline(always)]
pub(crate) fn mtu_of(ifindex: u32) -> u16 {
    // SAFETY: the value is one word, copied at once.
    unsafe { maps::INTERFACES.get(ifindex) }.map_or(0, |interface| interface.mtu)
}
