//! Answering echo requests (ping) to VIPs that the kernel does not own (RFC 792; RFC 4443, section 4).

use lb_common::{
    backend::NextHop,
    byte_order::Be16,
    checksum::{Sum, TupleDelta, update},
    flow::FlowKey,
    packet::{Link, Network},
    role::Roles,
    verdict::{DropReason, ForwardReason, PassReason, Verdict},
};

use crate::{context::Context, family::Family, icmp, link, role, stats};

/// Time to live of an answer.
const TTL: u8 = 64;

/// Turns a request around, if it is for the program to answer.
#[inline(always)]
pub(crate) fn answer<F: Family, C: Context>(ctx: C, link: &Link, network: &Network<F>) -> Result<u32, Verdict> {
    let roles = role::of(network.destination);
    if !roles.any(Roles::ANSWER_ECHO | Roles::REFUSE_ECHO) {
        return Err(PassReason::NotTcpOrUdp.into());
    }
    if roles.any(Roles::REFUSE_ECHO) {
        return Err(DropReason::EchoRefused.into());
    }
    if !network.source.is_valid_source() || network.source == network.destination {
        return Err(PassReason::InvalidSource.into());
    }

    let no_port = Be16::default();
    let from = FlowKey::new((network.source, no_port), (network.destination, no_port), F::ICMP);
    let to = from.reversed();
    let back = NextHop::new(ctx.ifindex(), link.source, link.destination, link.tags, 0);
    link::write::<F, C>(ctx, network.l3, link.tags, &back)?;
    F::rewrite(ctx, network.l3, &to, &TupleDelta::between(&from, &to), TTL)?;
    let message: *mut icmp::Header = ctx.still_at(network.l4)?;
    // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment; nothing else refers to the packet.
    let message = unsafe { &mut *message };
    let kind = |kind| Be16::from_wire([kind, message.code]).image();
    let delta = Sum::ZERO.add16(kind(F::ECHO.reply)).sub16(kind(F::ECHO.request));
    message.kind = F::ECHO.reply;
    message.checksum = update(u16::from_ne_bytes(message.checksum), delta).to_ne_bytes();
    stats::count(ForwardReason::Echo as u32);
    Ok(ctx.redirect(back.ifindex))
}
