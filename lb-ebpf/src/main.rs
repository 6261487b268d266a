//! The packet's way through the kernel.
//!
//! One path, compiled once per kind of attachment; see `README.md` beside this crate for its diagram and the table of maps.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "atomics on the BPF target exist only as intrinsics, see `atomic`"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is passed by value is copied to the stack first"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the entry points' signature is what their macros want"
)]

mod atomic;
mod attachment;
mod checksum;
mod clock;
mod connection;
mod context;
mod desk;
mod echo;
mod family;
mod fragment;
mod icmp;
mod link;
mod maps;
mod nat;
mod outcome;
mod refusal;
mod rewrite;
mod role;
mod route;
mod scheduler;
mod scratch;
mod service;
mod stats;
mod transmit;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    address::{V4, V6},
    packet::{Ip, Link, Packet},
    verdict::{Decision, PassReason, Verdict},
};

use crate::{
    attachment::{Generic, Native, NativeVirtual, Tc},
    context::Context,
    desk::{Desk, desk},
    family::Family,
    outcome::Outcome,
};

/// Native XDP behind a driver that hands over finished checksums.
#[xdp(frags)]
fn xlb_native(ctx: XdpContext) -> u32 {
    process(Native::new(ctx.ctx))
}

/// Native XDP on a virtual interface.
#[xdp(frags)]
fn xlb_native_virt(ctx: XdpContext) -> u32 {
    process(NativeVirtual::new(ctx.ctx))
}

/// Generic XDP, together with [`xlb_tc`]. Without `frags`, so that the kernel makes each packet one piece in place: for a program with
/// `frags` it makes a copy (`skb_pp_cow_data`, kernel 6.9) that has forgotten the length of its link header, and [`xlb_tc`] would be
/// shown the packet without one.
#[xdp]
fn xlb_generic(ctx: XdpContext) -> u32 {
    process(Generic::new(ctx.ctx))
}

/// The tc hook behind generic XDP: takes up what [`xlb_generic`] left.
#[classifier]
fn xlb_tc(ctx: TcContext) -> i32 {
    process(Tc::new(ctx.skb.skb)).cast_signed()
}

/// Leaves every packet to the kernel. Attached nowhere: the agent puts fragments back into interfaces in generic mode by it.
#[xdp]
#[expect(clippy::missing_const_for_fn, reason = "the macro makes an entry point of it")]
fn xlb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Sorts a frame by its IP family.
#[inline(always)]
fn process<C: Context>(ctx: C) -> u32 {
    let reason = match ctx.link() {
        Ok(link) if link.ether_type == V4::ETHER_TYPE => return walk::<V4, C>(ctx, link),
        Ok(link) if link.ether_type == V6::ETHER_TYPE => return walk::<V6, C>(ctx, link),
        Ok(_) => PassReason::NotIp,
        Err(reason) => reason,
    };
    conclude::<C>(C::turn_away(reason))
}

/// Sorts a packet of one family by what it is, and sees to its sender where it can't go on.
#[inline(always)]
fn walk<F: Family, C: Context>(ctx: C, link: Link) -> u32 {
    let Some(desk) = desk::<F>() else {
        return C::DROP;
    };
    desk.link = link;
    if let Err(verdict) = F::read(ctx, desk).result() {
        return conclude::<C>(verdict);
    }
    let network = &desk.network;
    let outcome = if C::IS_SECOND && (network.is_fragment() || network.protocol == F::ICMP) {
        Outcome::from(Verdict::ALREADY_JUDGED)
    } else if network.is_later_fragment() {
        fragment::follow::<F, C>(ctx, desk)
    } else if network.protocol == F::ICMP {
        icmp::process::<F, C>(ctx, desk)
    } else {
        forward::<F, C>(ctx, desk)
    };
    let verdict = match outcome.result() {
        Ok(action) => return action,
        Err(verdict) => verdict,
    };
    match verdict.decision() {
        Decision::Refuse(refusal) => refusal::send::<F, C>(ctx, desk, refusal),
        _ => conclude::<C>(verdict),
    }
}

/// A TCP or UDP packet's way, from the wire to the wire. Nothing is written before everything is decided.
#[inline(always)]
fn forward<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    let mut outcome = follow::<F, C>(ctx, desk);
    if outcome == UNKNOWN {
        outcome = service::admit::<F>(desk);
    }
    if outcome != KNOWN {
        return outcome;
    }
    deliver::<F, C>(ctx, desk)
}

/// What [`follow`] and [`service::admit`] return when the packet's route is on the desk.
const KNOWN: Outcome = Outcome::action(0);
/// What [`follow`] returns for a packet of no connection.
const UNKNOWN: Outcome = Outcome::action(1);

/// Reads the L4 header, and finds the connection.
#[inline(never)]
fn follow<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    Outcome::from(try_follow(ctx, desk))
}

#[inline(always)]
fn try_follow<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Result<u32, Verdict> {
    desk.packet = Packet::read(&ctx, ctx.ifindex(), &desk.link, &desk.network).map_err(C::turn_away)?;
    ctx.accept(&desk.packet)?;
    let unknown = !connection::follow::<F>(&desk.packet, &mut desk.route)?;
    Ok(u32::from(unknown))
}

/// Sends the packet on its route.
#[inline(never)]
fn deliver<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    Outcome::from(try_deliver(ctx, desk))
}

#[inline(always)]
fn try_deliver<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Result<u32, Verdict> {
    let (packet, route) = (&desk.packet, &desk.route);
    let next_hop = transmit::next_hop::<F, C>(ctx, packet, route)?;
    if packet.more_fragments {
        fragment::leave_note::<F, C>(ctx, &desk.network, &packet.key, route)?;
    }
    rewrite::rewrite::<F, C>(ctx, &mut desk.packet, desk.link.tags, route, &next_hop)?;
    stats::account(route, desk.packet.length);
    Ok(ctx.redirect(next_hop.ifindex))
}

/// Turns a verdict into the hook's action, and counts it.
#[inline(always)]
fn conclude<C: Context>(verdict: Verdict) -> u32 {
    match verdict.decision() {
        Decision::AlreadyJudged => C::PASS,
        Decision::Pass(reason) => {
            stats::count(reason);
            C::PASS
        }
        Decision::Drop(reason) => {
            stats::count(reason);
            C::DROP
        }
        Decision::Refuse(refusal) => {
            stats::count(refusal.reason() as u32);
            C::DROP
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
const fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
