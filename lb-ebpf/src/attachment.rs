//! The kinds of attachment, each a [`Context`]. They differ in how an unfinished checksum is recognised and finished, and in nothing
//! else:
//!
//! | program | packets with an unfinished checksum |
//! |---|---|
//! | [`Native`] | can't occur: the driver hands over what was on the wire |
//! | [`NativeVirtual`] | finished here, since a redirected XDP frame carries no note for the kernel to finish it |
//! | [`Generic`] | left to [`Tc`] |
//! | [`Tc`] | adjusted by a kernel helper that knows what the packet is, and finished by whoever needs it finished |
//!
//! Why generic XDP leaves them: it works on kernel packets, whose note about the checksum it can't see, so a finished checksum
//! that looks unfinished (one in 65,536) could not be told apart; and packets of local sockets are up to 64 KiB long, which a
//! generic redirect refuses (`xdp_ok_fwd_dev` in `include/linux/filter.h`), but tc does not.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_pull_data},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    Address,
    checksum::{Sum, TupleDelta, update, update_udp},
    flow::{FlowKey, protocol},
    verdict::{PassReason, Verdict},
};

use crate::{
    checksum,
    context::{Context, RawContext},
    parse::{MAX_HEADERS, Packet},
};

/// Reads `data` or `data_end` of a context, see [`Context::data`].
#[inline(always)]
fn read_pointer(field: *const u32) -> usize {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { field.read_volatile() as usize }
}

/// Writes the L4 checksum field updated by `delta`, for a packet whose checksum is finished.
#[inline(always)]
fn update_finished<C: Context, A: Address>(ctx: &C, packet: &Packet<A>, delta: &TupleDelta) -> Result<(), Verdict> {
    let field = packet.l4_checksum;
    let field = if packet.key.protocol == protocol::UDP {
        update_udp(field, delta.all())
    } else {
        update(field, delta.all())
    };
    checksum::write_l4(ctx, packet, field)
}

/// An XDP hook; the parameter tells the kinds apart.
pub(crate) struct Xdp<const KIND: u8>(XdpContext);

const NATIVE: u8 = 0;
const NATIVE_VIRTUAL: u8 = 1;
const GENERIC: u8 = 2;

/// Native XDP behind a driver that hands over finished checksums.
pub(crate) type Native = Xdp<NATIVE>;
/// Native XDP on a virtual interface (veth), where local sockets send.
pub(crate) type NativeVirtual = Xdp<NATIVE_VIRTUAL>;
/// Generic XDP.
pub(crate) type Generic = Xdp<GENERIC>;

impl<const KIND: u8> Xdp<KIND> {
    #[inline(always)]
    pub(crate) const fn new(ctx: XdpContext) -> Self {
        Self(ctx)
    }
}

impl<const KIND: u8> Context for Xdp<KIND> {
    const PASS: u32 = xdp_action::XDP_PASS;
    const DROP: u32 = xdp_action::XDP_DROP;

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel hands the program a valid context.
        read_pointer(unsafe { &raw const (*self.0.ctx).data })
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        read_pointer(unsafe { &raw const (*self.0.ctx).data_end })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn accept(&self, partial: bool) -> Result<(), Verdict> {
        if KIND == GENERIC && partial {
            return Err(PassReason::LeftToTc.into());
        }
        Ok(())
    }

    #[inline(always)]
    fn is_segmented_later(&self) -> bool {
        false
    }

    #[inline(always)]
    fn raw(&self) -> RawContext {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn finish_l4_checksum<A: Address>(
        &self,
        packet: &Packet<A>,
        to: &FlowKey<A>,
        delta: &TupleDelta,
    ) -> Result<(), Verdict> {
        if KIND == NATIVE_VIRTUAL && packet.partial {
            return checksum::complete(self, packet, to);
        }
        update_finished(self, packet, delta)
    }
}

/// tc ingress, behind [`Generic`].
pub(crate) struct Tc(TcContext);

impl Tc {
    /// Takes a packet on, with all headers where they can be read directly.
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        let headers = ctx.len().min(MAX_HEADERS);
        // SAFETY: the context is the program's own. On failure the headers are missing and the packet counts as cut short.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, headers) };
        Self(ctx)
    }

    /// Adjusts the checksum field through the kernel, which knows whether it is finished.
    #[inline(always)]
    fn replace(&self, offset: u32, delta: Sum, flags: u32) {
        // SAFETY: the context is the program's own. The helper fails only where the field is not within the packet.
        unsafe { bpf_l4_csum_replace(self.0.skb.skb, offset, 0, u64::from(delta.fold()), u64::from(flags)) };
    }
}

impl Context for Tc {
    /// Not `TC_ACT_OK`: other filters on the interface have their say.
    const PASS: u32 = TC_ACT_UNSPEC.cast_unsigned();
    const DROP: u32 = TC_ACT_SHOT.cast_unsigned();

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the kernel hands the program a valid context.
        read_pointer(unsafe { &raw const (*self.0.skb.skb).data })
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        read_pointer(unsafe { &raw const (*self.0.skb.skb).data_end })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    #[inline(always)]
    fn accept(&self, partial: bool) -> Result<(), Verdict> {
        if partial { Ok(()) } else { Err(Verdict::AlreadyJudged) }
    }

    /// What is not a TCP or UDP packet with an unfinished checksum was judged, and counted, by the XDP program.
    #[inline(always)]
    fn judge_unparsed(_verdict: Verdict) -> Verdict {
        Verdict::AlreadyJudged
    }

    #[inline(always)]
    fn is_segmented_later(&self) -> bool {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0.skb.skb).gso_size != 0 }
    }

    #[inline(always)]
    fn raw(&self) -> RawContext {
        self.0.as_ptr()
    }

    #[inline(always)]
    fn finish_l4_checksum<A: Address>(
        &self,
        packet: &Packet<A>,
        _to: &FlowKey<A>,
        delta: &TupleDelta,
    ) -> Result<(), Verdict> {
        let offset = checksum::l4_field_offset(packet);
        let zero = if packet.key.protocol == protocol::UDP {
            BPF_F_MARK_MANGLED_0
        } else {
            0
        };
        self.replace(offset, delta.addresses, BPF_F_PSEUDO_HDR | zero);
        self.replace(offset, delta.ports, zero);
        Ok(())
    }
}
