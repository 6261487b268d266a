//! Telling the sender of a packet that it can't go on: time exceeded, and fragmentation needed or packet too big (RFC 792; RFC 4443,
//! sections 3.2 and 3.3).
//!
//! The kernel can't do it. It has not seen the translation, so it does not know where the packet would go; it takes a packet to a VIP
//! that it owns, or to its own address in `full_nat`, for its own and answers with a reset.

use lb_common::{
    backend::NextHop,
    flow::protocol,
    limits::ICMP_ERRORS_PER_SECOND,
    packet::{ICMP_HEADER, Link, Network, TCP_CHECKSUM, UDP_CHECKSUM},
    verdict::{DropReason, Event, Refusal, Verdict},
};

use crate::{checksum::sum_frame, clock, context::Context, desk::Desk, family::Family, icmp, link, maps, stats};

/// Drops a packet that was refused, and makes an ICMP error of it, back to where it came from. Returns the hook's action.
#[inline(never)]
pub(crate) fn send<F: Family, C: Context>(ctx: C, desk: &Desk<F>, refusal: Refusal) -> u32 {
    stats::count(refusal.reason() as u32);
    match error(ctx, &desk.link, &desk.network, refusal) {
        Ok(action) => {
            stats::count(Event::IcmpSent as u32);
            action
        }
        Err(_) => C::DROP,
    }
}

#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "an ICMP error is 1280 bytes long at most"
)]
fn error<F: Family, C: Context>(ctx: C, link: &Link, network: &Network<F>, refusal: Refusal) -> Result<u32, Verdict> {
    if !network.source.is_valid_source() || !may_send() {
        return Err(DropReason::Vanished.into());
    }
    let headers = F::HEADER + ICMP_HEADER;
    let quoted = usize::from(network.length).min(F::MAX_ICMP_ERROR - headers);
    let back = NextHop::new(ctx.ifindex(), link.source, link.destination, link.tags, 0);
    let source = source::<F, C>(ctx, network);
    let l3 = network.l3;
    ctx.reframe(headers, l3 + headers + quoted)?;
    link::write_whole::<F, C>(ctx, &back)?;
    F::write_icmp_error(ctx, l3, source, network.source, quoted as u16, refusal)?;

    let length = ICMP_HEADER + quoted;
    let sum = if C::IS_SECOND {
        sum_of_unfinished(ctx, network, headers)?
    } else {
        sum_frame(ctx, l3 + F::HEADER, length)?
    };
    let sum = sum.add(F::icmp_pseudo_header(source, network.source, length as u16));
    let message: *mut icmp::Header = ctx.still_at(l3 + F::HEADER)?;
    // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment.
    unsafe { (*message).checksum = sum.checksum().to_ne_bytes() };
    Ok(ctx.redirect(back.ifindex))
}

/// Sum of the message if the quoted packet has an unfinished checksum, which the kernel still finishes: everything from the L4 header on
/// then sums up to the complement of what stands in the checksum field now.
#[inline(always)]
fn sum_of_unfinished<F: Family, C: Context>(
    ctx: C,
    network: &Network<F>,
    headers: usize,
) -> Result<lb_common::checksum::Sum, Verdict> {
    let field = if network.protocol == protocol::TCP {
        TCP_CHECKSUM
    } else {
        UDP_CHECKSUM
    };
    let field = ctx
        .view::<[u8; 2]>(network.l4 + headers + field)
        .ok_or(DropReason::Vanished)?;
    let before_l4 = ICMP_HEADER + network.l4 - network.l3;
    let sum = sum_frame(ctx, network.l3 + F::HEADER, before_l4)?;
    Ok(sum.sub16(u16::from_ne_bytes(*field)))
}

/// Where an error comes from: this host's address on the interface, else the address that the packet was sent to.
#[inline(always)]
fn source<F: Family, C: Context>(ctx: C, network: &Network<F>) -> F {
    // SAFETY: the address is copied; one that is written meanwhile may be torn, in one error.
    match unsafe { maps::INTERFACES.get(ctx.ifindex()) } {
        Some(interface) if F::of_interface(interface).is_valid_source() => F::of_interface(interface),
        _ => network.destination,
    }
}

/// Whether there may be another error in this second on this CPU.
#[inline(always)]
fn may_send() -> bool {
    let Some(budget) = maps::ICMP_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid map value of this CPU, which nothing interrupts.
    let budget = unsafe { &mut *budget };
    let second = clock::now() / 1_000_000_000;
    if budget.second != second {
        budget.second = second;
        budget.spent = 0;
    }
    budget.spent += 1;
    budget.spent <= u64::from(ICMP_ERRORS_PER_SECOND)
}
