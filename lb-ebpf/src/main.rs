//! The packet's way through the kernel.
//!
//! One path, compiled once per kind of attachment; see `README.md` beside this crate for its diagram and the table of maps.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "atomics on the BPF target exist only as intrinsics, see `atomic`"
)]

mod atomic;
mod attachment;
mod checksum;
mod connection;
mod context;
mod family;
mod maps;
mod nat;
mod parse;
mod rewrite;
mod route;
mod scheduler;
mod service;
mod stats;
mod transmit;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{address::V4, verdict::Verdict};

use crate::{
    attachment::{Generic, Native, NativeVirtual, Tc},
    context::Context,
    family::Family,
};

/// Native XDP behind a driver that hands over finished checksums.
#[xdp]
fn xlb_native(ctx: XdpContext) -> u32 {
    process(&Native::new(ctx))
}

/// Native XDP on a virtual interface.
#[xdp]
fn xlb_native_virt(ctx: XdpContext) -> u32 {
    process(&NativeVirtual::new(ctx))
}

/// Generic XDP, together with [`xlb_tc`].
#[xdp]
fn xlb_generic(ctx: XdpContext) -> u32 {
    process(&Generic::new(ctx))
}

/// The tc hook behind generic XDP: takes up what [`xlb_generic`] left.
#[classifier]
fn xlb_tc(ctx: TcContext) -> i32 {
    process(&Tc::new(ctx)).cast_signed()
}

/// Runs the stages and turns their result into the hook's action. The only place that counts a verdict.
#[inline(always)]
fn process<C: Context>(ctx: &C) -> u32 {
    match forward::<V4, C>(ctx) {
        Ok(action) => action,
        Err(Verdict::Pass(reason)) => {
            stats::count(reason as u32);
            C::PASS
        }
        Err(Verdict::Drop(reason)) => {
            stats::count(reason as u32);
            C::DROP
        }
        Err(Verdict::AlreadyJudged) => C::PASS,
    }
}

/// One packet's way, from the wire to the wire. Nothing is written before everything is decided.
#[inline(always)]
fn forward<F: Family, C: Context>(ctx: &C) -> Result<u32, Verdict> {
    let packet = parse::parse::<F, C>(ctx).map_err(C::judge_unparsed)?;
    let route = match connection::follow::<F>(&packet)? {
        Some(route) => route,
        None => service::admit::<F>(&packet)?,
    };
    let next_hop = transmit::next_hop::<F, C>(ctx, &packet, &route)?;
    rewrite::rewrite::<F, C>(ctx, &packet, &route, &next_hop)?;
    stats::account(&packet, &route);
    Ok(ctx.redirect(next_hop.ifindex))
}

#[cfg(not(test))]
#[panic_handler]
const fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
