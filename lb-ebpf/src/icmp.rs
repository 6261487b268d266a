//! ICMP and ICMPv6: errors about connections are translated and sent to whom they concern, echo requests to VIPs are answered, all else
//! is the kernel's.
//!
//! An error quotes the packet that it is about as it was on the side of the balancer where something went wrong. Its sender knows the
//! packet as it was on the other side. So the quoted packet is translated back, and the error is sent on to that sender. Its own source
//! becomes what the sender believes to talk to: the VIP, or, in `full_nat`, the balancer (RFC 5508, REQ-4 and REQ-5). A router between us
//! and the client keeps its address, since nothing hides it.
//!
//! Errors neither refresh nor end a connection (RFC 5508, REQ-6; RFC 4787, REQ-12; RFC 5382, REQ-10).

use lb_common::{
    byte_order::Be16,
    checksum::{Sum, TupleDelta, update, update_udp},
    connection::Direction,
    flow::{FlowKey, protocol},
    packet::{ICMP_HEADER, Link, Network, Plain, Quote},
    verdict::{DropReason, ForwardReason, PassReason, Verdict},
};

use crate::{
    checksum, connection, context::Context, desk::Desk, echo, family::Family, link, outcome::Outcome, stats, transmit,
};

/// What all ICMP messages begin with.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// Memory image of the checksum.
    pub(crate) checksum: [u8; 2],
}

// SAFETY: made of bytes alone.
unsafe impl Plain for Header {}

/// The way of an ICMP message.
#[inline(always)]
pub(crate) fn process<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    let outcome = judge::<F, C>(ctx, desk);
    if outcome == IS_ERROR {
        return pass_on::<F, C>(ctx, desk);
    }
    outcome
}

/// What [`judge`] returns when there is an error on the desk, and the packet that it quotes.
const IS_ERROR: Outcome = Outcome::action(u32::MAX);

/// Answers an echo request; reads the packet that an error quotes.
#[inline(never)]
fn judge<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    Outcome::from(try_judge(ctx, desk))
}

#[inline(always)]
fn try_judge<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Result<u32, Verdict> {
    let network = &desk.network;
    if network.more_fragments {
        return Err(PassReason::Fragment.into());
    }
    // What stands behind the packet in the frame is padding.
    if usize::from(network.payload) < ICMP_HEADER {
        return Err(PassReason::Malformed.into());
    }
    let header: &Header = ctx.view(network.l4).ok_or(PassReason::Malformed)?;
    if header.kind == F::ECHO.request {
        return echo::answer(ctx, &desk.link, network);
    }
    if !F::is_icmp_error(header.kind) {
        return Err(PassReason::NotTcpOrUdp.into());
    }
    desk.quote = Quote::read(&ctx, network)?;
    Ok(u32::MAX)
}

/// Sends an error on.
#[inline(never)]
fn pass_on<F: Family, C: Context>(ctx: C, desk: &Desk<F>) -> Outcome {
    Outcome::from(translate(ctx, &desk.link, &desk.network, &desk.quote))
}

/// Sends an error on to the sender of the packet that it quotes.
#[inline(always)]
fn translate<F: Family, C: Context>(
    ctx: C,
    link: &Link,
    network: &Network<F>,
    quote: &Quote<F>,
) -> Result<u32, Verdict> {
    // An error goes to the source of the packet that it is about.
    if network.destination != quote.key.source {
        return Err(PassReason::IcmpUnrelated.into());
    }
    // What answers the quoted packet has its tuple reversed, and goes where the error must go.
    let answers = connection::find::<F>(&quote.key.reversed()).ok_or(PassReason::IcmpUnrelated)?;
    if is_damaged(ctx, network, quote)? {
        return Err(DropReason::IcmpChecksum.into());
    }
    let direct = answers.direction == Direction::Direct as u32;
    if network.ttl <= 1 && !direct {
        // No error about an error (RFC 1122, section 3.2.2).
        return Err(DropReason::TtlExpired.into());
    }
    let original = &answers.twin;
    let source = if original.destination == quote.key.destination {
        network.source
    } else {
        original.destination
    };
    let no_port = Be16::default();
    let from = FlowKey::new((network.source, no_port), (network.destination, no_port), F::ICMP);
    let to = FlowKey::new((source, no_port), (original.source, no_port), F::ICMP);

    let mut next_hop = connection::next_hop_of(answers);
    if !next_hop.is_known() {
        next_hop = transmit::look_up(ctx, &to, u32::from(network.length))?;
    }
    if next_hop.mtu != 0 && network.length > next_hop.mtu {
        return Err(DropReason::TooBig.into());
    }

    let l3 = link::write::<F, C>(ctx, network.l3, link.tags, &next_hop)?;
    if !direct {
        let outer = TupleDelta::between(&from, &to);
        F::rewrite(ctx, l3, &to, &outer, network.ttl - 1)?;
        let shift = |offset: usize| offset - network.l3 + l3;
        let change = rewrite_quote(ctx, quote, original, shift)?;
        correct_checksum::<C>(ctx, shift(network.l4), change.add(F::icmp_delta(&outer)))?;
    }
    stats::count(ForwardReason::IcmpError as u32);
    Ok(ctx.redirect(next_hop.ifindex))
}

/// Whether a checksum of the error is wrong: its own, or that of the quoted IP header (RFC 5508, REQ-3). The quoted L4 checksum is not
/// looked at, since most of what it covers is missing.
#[inline(always)]
fn is_damaged<F: Family, C: Context>(ctx: C, network: &Network<F>, quote: &Quote<F>) -> Result<bool, Verdict> {
    let sum = checksum::sum_frame(ctx, network.l4, usize::from(network.payload))?;
    let sum = sum.add(F::icmp_pseudo_header(
        network.source,
        network.destination,
        network.payload,
    ));
    Ok(sum.checksum() != 0 || F::is_quoted_header_wrong(ctx, quote.l3))
}

/// Gives the quoted packet the tuple that its sender knows; returns what that changes in a sum over the message.
#[inline(always)]
fn rewrite_quote<F: Family, C: Context>(
    ctx: C,
    quote: &Quote<F>,
    original: &FlowKey<F>,
    shift: impl Fn(usize) -> usize,
) -> Result<Sum, Verdict> {
    let delta = TupleDelta::between(&quote.key, original);
    let mut change = delta
        .all()
        .add(F::rewrite_quoted(ctx, shift(quote.l3), original, &delta)?);
    let ports: *mut [[u8; 2]; 2] = ctx.still_at(shift(quote.l4))?;
    // SAFETY: `still_at` checked the bounds; bytes have no alignment.
    unsafe { *ports = [original.source_port.to_wire(), original.destination_port.to_wire()] };
    // 0 is "no checksum" over UDP, and padding where a router quotes less of TCP than it seems to (RFC 4884, section 4.1).
    if quote.checksum != 0 && quote.checksum_at != 0 {
        let checksum = if quote.key.protocol == protocol::UDP {
            update_udp(quote.checksum, delta.all())
        } else {
            update(quote.checksum, delta.all())
        };
        let field: *mut [u8; 2] = ctx.still_at(shift(quote.checksum_at))?;
        // SAFETY: as above.
        unsafe { *field = checksum.to_ne_bytes() };
        change = change.add16(checksum).sub16(quote.checksum);
    }
    Ok(change)
}

/// Updates the checksum of the message at `l4`.
#[inline(always)]
fn correct_checksum<C: Context>(ctx: C, l4: usize, change: Sum) -> Result<(), Verdict> {
    let header: *mut Header = ctx.still_at(l4)?;
    // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment; nothing else refers to the packet.
    let field = unsafe { &mut (*header).checksum };
    *field = update(u16::from_ne_bytes(*field), change).to_ne_bytes();
    Ok(())
}
