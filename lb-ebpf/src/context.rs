//! What the stages need of a hook. XDP and tc both fulfil it, so the stages exist once.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    helpers::generated::{bpf_fib_lookup as bpf_fib_lookup_helper, bpf_redirect},
};
use lb_common::{
    backend::Tags,
    checksum::TupleDelta,
    flow::FlowKey,
    packet::{Frame, Ip, Link, MAX_OFFSET, Packet},
    verdict::{DropReason, PassReason, Verdict},
};

/// Size of the parameter block of the routing lookup; the kernel checks it.
const FIB_PARAMS_LENGTH: i32 = 64;
const _: () = assert!(size_of::<bpf_fib_lookup>() == 64);

/// A packet at a hook: a copy of the kernel's pointer to it.
pub(crate) trait Context: Frame + Copy {
    /// The hook's action for "leave it to the kernel".
    const PASS: u32;
    /// The hook's action for "drop it".
    const DROP: u32;
    /// Whether this hook comes after another one of ours, which has judged, and counted, everything but TCP and UDP packets with an unfinished
    /// checksum.
    const IS_SECOND: bool;

    /// The verdict on a packet that is turned away before it is known to be one for this hook.
    #[inline(always)]
    fn turn_away(reason: PassReason) -> Verdict {
        if Self::IS_SECOND {
            Verdict::ALREADY_JUDGED
        } else {
            reason.into()
        }
    }

    /// Address of the first byte that can be read directly.
    ///
    /// Read from the context each time it is asked, never remembered by the compiler: the verifier wants each access derived from
    /// the very pointer whose bounds were checked, which an optimiser that merges two checks would undo.
    fn data(self) -> usize;
    /// Address behind the last byte that can be read directly.
    fn data_end(self) -> usize;
    /// Index of the interface on which the packet came in.
    fn ifindex(self) -> u32;

    /// Reads the link header.
    #[inline(always)]
    fn link(self) -> Result<Link, PassReason> {
        Link::read(&self)
    }

    /// Whether this hook takes the packet on.
    fn accept<A: Ip>(self, packet: &Packet<A>) -> Result<(), Verdict>;

    /// Length of the IP packets that leave for this one: its own, or that of its longest piece where the kernel cuts it up later on
    /// (GSO).
    fn segment_length<A: Ip>(self, packet: &Packet<A>) -> u32;

    /// The context as helpers want it.
    fn raw(self) -> RawContext;

    /// Asks the kernel's routing table; returns a `BPF_FIB_LKUP_RET_*` number or a negative error.
    #[inline(always)]
    fn fib_lookup(self, params: &mut bpf_fib_lookup) -> i64 {
        // SAFETY: the context is the program's own, the parameter block is initialised and of the length that is given.
        unsafe { bpf_fib_lookup_helper(self.raw(), params, FIB_PARAMS_LENGTH, 0) }
    }

    /// Makes the L4 checksum right for a packet that now has the tuple `to`, all else already being rewritten.
    fn finish_l4_checksum<A: Ip>(self, packet: &Packet<A>, to: &FlowKey<A>, delta: &TupleDelta) -> Result<(), Verdict>;

    /// Makes room for a link header with the tags `to` where it had `from`. The contents of both are undefined afterwards.
    fn change_tags(self, from: Tags, to: Tags) -> Result<(), Verdict>;

    /// Number of tags that stand in the frame, of those that it has. The kernel may hold some beside it.
    fn tags_in_frame(tags: Tags) -> usize;

    /// Makes room in front of the frame, of `head` bytes, and cuts it to `length` bytes counted from the new start.
    fn reframe(self, head: usize, length: usize) -> Result<(), Verdict>;

    /// Copies `length` bytes of the frame from `offset` on.
    ///
    /// # Safety
    ///
    /// `buffer` has room for them.
    unsafe fn load(self, offset: usize, buffer: *mut c_void, length: u32) -> Result<(), Verdict>;

    /// Sends the packet out of an interface and returns the hook's action for that.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the helper returns a hook's action, a small positive number"
    )]
    #[expect(clippy::cast_sign_loss, reason = "as above")]
    fn redirect(self, ifindex: u32) -> u32 {
        // SAFETY: takes numbers only; an interface that is gone makes the kernel drop the packet.
        unsafe { bpf_redirect(ifindex, 0) as u32 }
    }

    /// A pointer to a `T` at `offset` bytes into the frame, or `None` if what can be read directly ends before it does.
    ///
    /// The bounds check in the form that the verifier understands. Every access asks anew, since calls that change the packet
    /// invalidate earlier pointers.
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        // Offsets come from memory, and the verifier forgets what it knew of what was stored there.
        let start = self.data() + (offset & MAX_OFFSET);
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// As [`at`](Self::at), where an earlier stage has already seen the bytes.
    #[inline(always)]
    fn still_at<T>(self, offset: usize) -> Result<*mut T, Verdict> {
        self.at(offset).ok_or(DropReason::Vanished.into())
    }
}

/// The number itself, of which the compiler forgets what it knew: for all it knows, the assembly has changed it. An instruction and not
/// nothing, since line information for no instruction is refused. See [`Frame::forget`](lb_common::packet::Frame::forget).
#[inline(always)]
pub(crate) fn forget(number: usize) -> usize {
    let mut number = number;
    // SAFETY: it does nothing.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}

/// The raw context pointer, as helpers want it.
pub(crate) type RawContext = *mut c_void;
