//! The kinds of attachment, each a [`Context`]. They differ in how an unfinished checksum is recognised and finished, and in where VLAN
//! tags are:
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

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action, xdp_md},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data,
        bpf_skb_vlan_pop, bpf_skb_vlan_push, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
        bpf_xdp_load_bytes,
    },
};
use lb_common::{
    backend::{Tag, Tags},
    checksum::{Sum, TupleDelta, update, update_udp},
    flow::{FlowKey, protocol},
    packet::{Frame, Ip, Link, MAX_LINK_HEADER, Packet, Plain, ether_type},
    verdict::{DropReason, PassReason, Verdict},
};

use crate::{
    checksum,
    context::{Context, RawContext, forget},
};

/// What tc makes directly readable of a packet: the longest link header, the longest IPv4 header or IPv6 header with a usual chain of
/// extensions, and a TCP header without options.
const READABLE: u32 = 22 + 80 + 20;
const _: () = assert!(READABLE as usize == MAX_LINK_HEADER + 80 + 20);

/// Reads `data` or `data_end` of a context, see [`Context::data`].
#[inline(always)]
fn read_pointer(field: *const u32) -> usize {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { field.read_volatile() as usize }
}

/// [`Frame::view`] of a context.
#[inline(always)]
fn view<T: Plain, C: Context>(ctx: &C, offset: usize) -> Option<&T> {
    // SAFETY: `at` checked the bounds, and `Plain` promises that any bytes at any address will do.
    ctx.at(offset).map(|pointer| unsafe { &*pointer })
}

/// Writes the L4 checksum field updated by `delta`, for a packet whose checksum is finished.
#[inline(always)]
fn update_finished<C: Context, A: Ip>(ctx: C, packet: &Packet<A>, delta: &TupleDelta) -> Result<(), Verdict> {
    let field = packet.l4_checksum;
    let field = if packet.key.protocol == protocol::UDP {
        update_udp(field, delta.all())
    } else {
        update(field, delta.all())
    };
    checksum::write_l4(ctx, packet, field)
}

/// An XDP hook; the parameter tells the kinds apart.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Xdp<const KIND: u8>(*mut xdp_md);

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
    pub(crate) const fn new(ctx: *mut xdp_md) -> Self {
        Self(ctx)
    }
}

impl<const KIND: u8> Frame for Xdp<KIND> {
    #[inline(always)]
    fn view<T: Plain>(&self, offset: usize) -> Option<&T> {
        view(self, offset)
    }

    /// The tail of a jumbo frame lies where it can't be read directly.
    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        if length <= self.data_end() - self.data() {
            return true;
        }
        // SAFETY: the kernel hands the program a valid context.
        length as u64 <= unsafe { bpf_xdp_get_buff_len(self.0) }
    }

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        forget(number)
    }
}

impl<const KIND: u8> Context for Xdp<KIND> {
    const PASS: u32 = xdp_action::XDP_PASS;
    const DROP: u32 = xdp_action::XDP_DROP;
    const IS_SECOND: bool = false;

    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the kernel hands the program a valid context.
        read_pointer(unsafe { &raw const (*self.0).data })
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: as above.
        read_pointer(unsafe { &raw const (*self.0).data_end })
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn accept<A: Ip>(self, packet: &Packet<A>) -> Result<(), Verdict> {
        if KIND == GENERIC && packet.partial {
            return Err(PassReason::LeftToTc.into());
        }
        Ok(())
    }

    #[inline(always)]
    fn segment_length<A: Ip>(self, packet: &Packet<A>) -> u32 {
        u32::from(packet.length)
    }

    #[inline(always)]
    fn raw(self) -> RawContext {
        self.0.cast()
    }

    #[inline(always)]
    fn finish_l4_checksum<A: Ip>(self, packet: &Packet<A>, to: &FlowKey<A>, delta: &TupleDelta) -> Result<(), Verdict> {
        if KIND == NATIVE_VIRTUAL && packet.partial {
            return checksum::complete(self, packet, to);
        }
        update_finished(self, packet, delta)
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "two tags at most"
    )]
    fn change_tags(self, from: Tags, to: Tags) -> Result<(), Verdict> {
        let change = 4 * (from.count() as i32 - to.count() as i32);
        // SAFETY: the kernel hands the program a valid context.
        if change != 0 && unsafe { bpf_xdp_adjust_head(self.0, change) } != 0 {
            return Err(DropReason::NoHeadroom.into());
        }
        Ok(())
    }

    #[inline(always)]
    fn tags_in_frame(tags: Tags) -> usize {
        tags.count()
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "lengths of packets"
    )]
    fn reframe(self, head: usize, length: usize) -> Result<(), Verdict> {
        // SAFETY: the kernel hands the program a valid context.
        if unsafe { bpf_xdp_adjust_head(self.0, -(head as i32)) } != 0 {
            return Err(DropReason::NoHeadroom.into());
        }
        // SAFETY: as above.
        let now = unsafe { bpf_xdp_get_buff_len(self.0) };
        let change = length as i32 - now as i32;
        // SAFETY: as above.
        if change < 0 && unsafe { bpf_xdp_adjust_tail(self.0, change) } != 0 {
            return Err(DropReason::NoHeadroom.into());
        }
        Ok(())
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "offsets within a frame")]
    unsafe fn load(self, offset: usize, buffer: *mut c_void, length: u32) -> Result<(), Verdict> {
        // SAFETY: the caller guarantees the buffer; the kernel checks the bounds of the packet.
        match unsafe { bpf_xdp_load_bytes(self.0, offset as u32, buffer, length) } {
            0 => Ok(()),
            _ => Err(DropReason::Vanished.into()),
        }
    }
}

/// tc ingress, behind [`Generic`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Tc(*mut __sk_buff);

impl Tc {
    /// Takes a packet on, with all headers where they can be read directly.
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context is the program's own. On failure the headers are missing and the packet counts as cut short.
        unsafe {
            let headers = (*skb).len.min(READABLE);
            bpf_skb_pull_data(skb, headers);
        }
        Self(skb)
    }

    /// The tag that the kernel holds beside the frame.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "both are 16 bits wide")]
    fn held_tag(self) -> Tag {
        // SAFETY: the kernel hands the program a valid context.
        let (present, control, protocol) =
            unsafe { ((*self.0).vlan_present, (*self.0).vlan_tci, (*self.0).vlan_proto) };
        if present == 0 {
            return Tag::NONE;
        }
        if u16::from_be(protocol as u16) == ether_type::SERVICE_TAG {
            Tag::service(control as u16)
        } else {
            Tag::customer(control as u16)
        }
    }

    /// Adjusts the checksum field through the kernel, which knows whether it is finished.
    #[inline(always)]
    fn replace(self, offset: u32, delta: Sum, flags: u32) {
        // SAFETY: the context is the program's own. The helper fails only where the field is not within the packet.
        unsafe { bpf_l4_csum_replace(self.0, offset, 0, u64::from(delta.fold()), u64::from(flags)) };
    }
}

impl Frame for Tc {
    #[inline(always)]
    fn view<T: Plain>(&self, offset: usize) -> Option<&T> {
        view(self, offset)
    }

    #[inline(always)]
    fn reaches(&self, length: usize) -> bool {
        // SAFETY: the kernel hands the program a valid context.
        length <= unsafe { (*self.0).len } as usize
    }

    #[inline(always)]
    fn forget(&self, number: usize) -> usize {
        forget(number)
    }
}

impl Context for Tc {
    /// Not `TC_ACT_OK`: other filters on the interface have their say.
    const PASS: u32 = TC_ACT_UNSPEC.cast_unsigned();
    const DROP: u32 = TC_ACT_SHOT.cast_unsigned();
    const IS_SECOND: bool = true;

    #[inline(always)]
    fn data(self) -> usize {
        // SAFETY: the kernel hands the program a valid context.
        read_pointer(unsafe { &raw const (*self.0).data })
    }

    #[inline(always)]
    fn data_end(self) -> usize {
        // SAFETY: the kernel hands the program a valid context.
        read_pointer(unsafe { &raw const (*self.0).data_end })
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (*self.0).ifindex }
    }

    /// The kernel takes the first tag out of the frame before this hook.
    #[inline(always)]
    fn link(self) -> Result<Link, PassReason> {
        let mut link = Link::read(&self)?;
        let held = self.held_tag();
        if held.is_present() {
            link.tags = Tags {
                outer: held,
                inner: link.tags.outer,
            };
        }
        Ok(link)
    }

    #[inline(always)]
    fn accept<A: Ip>(self, packet: &Packet<A>) -> Result<(), Verdict> {
        if packet.partial {
            Ok(())
        } else {
            Err(Verdict::ALREADY_JUDGED)
        }
    }

    #[inline(always)]
    fn segment_length<A: Ip>(self, packet: &Packet<A>) -> u32 {
        // SAFETY: the kernel hands the program a valid context.
        let segment = unsafe { (*self.0).gso_size };
        if segment == 0 {
            return u32::from(packet.length);
        }
        /// Data offset, and the flags behind it, within the TCP header.
        const DATA_OFFSET: usize = 12;
        let l4_header = match self.view::<[u8; 2]>(packet.l4 + DATA_OFFSET) {
            Some([offset, _]) if packet.key.protocol == protocol::TCP => u32::from(offset >> 4) * 4,
            _ => 8,
        };
        #[expect(clippy::cast_possible_truncation, reason = "length of a header")]
        let l3_header = (packet.l4 - packet.l3) as u32;
        segment + l3_header + l4_header
    }

    #[inline(always)]
    fn raw(self) -> RawContext {
        self.0.cast()
    }

    #[inline(always)]
    fn finish_l4_checksum<A: Ip>(
        self,
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

    /// The kernel keeps the one tag that it handles beside the frame; a second one, within it, can't be changed here.
    #[inline(always)]
    fn change_tags(self, from: Tags, to: Tags) -> Result<(), Verdict> {
        if from.inner != to.inner {
            return Err(DropReason::NoHeadroom.into());
        }
        // SAFETY: the kernel hands the program a valid context.
        if from.outer.is_present() && unsafe { bpf_skb_vlan_pop(self.0) } != 0 {
            return Err(DropReason::NoHeadroom.into());
        }
        if !to.outer.is_present() {
            return Ok(());
        }
        let kind = if to.outer.is_service() {
            ether_type::SERVICE_TAG
        } else {
            ether_type::CUSTOMER_TAG
        };
        // SAFETY: as above.
        match unsafe { bpf_skb_vlan_push(self.0, kind.to_be(), to.outer.vlan()) } {
            0 => Ok(()),
            _ => Err(DropReason::NoHeadroom.into()),
        }
    }

    #[inline(always)]
    fn tags_in_frame(tags: Tags) -> usize {
        tags.inner.is_present() as usize
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "lengths of packets")]
    fn reframe(self, head: usize, length: usize) -> Result<(), Verdict> {
        // SAFETY: the kernel hands the program a valid context. Cutting the packet also takes it for one packet (GSO).
        unsafe {
            if bpf_skb_change_tail(self.0, (length - head) as u32, 0) != 0
                || bpf_skb_change_head(self.0, head as u32, 0) != 0
            {
                return Err(DropReason::NoHeadroom.into());
            }
        }
        Ok(())
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "offsets within a frame")]
    unsafe fn load(self, offset: usize, buffer: *mut c_void, length: u32) -> Result<(), Verdict> {
        // SAFETY: the caller guarantees the buffer; the kernel checks the bounds of the packet.
        match unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, buffer, length) } {
            0 => Ok(()),
            _ => Err(DropReason::Vanished.into()),
        }
    }
}
