//! What the stages need of a hook. XDP and tc both fulfil it, so the stages exist once.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    helpers::generated::{bpf_fib_lookup as bpf_fib_lookup_helper, bpf_redirect},
};
use lb_common::{
    Address,
    checksum::TupleDelta,
    flow::FlowKey,
    verdict::{DropReason, Verdict},
};

use crate::parse::Packet;

/// Size of the parameter block of the routing lookup; the kernel checks it.
const FIB_PARAMS_LENGTH: i32 = 64;
const _: () = assert!(size_of::<bpf_fib_lookup>() == 64);

/// A packet at a hook.
pub(crate) trait Context {
    /// The hook's action for "leave it to the kernel".
    const PASS: u32;
    /// The hook's action for "drop it".
    const DROP: u32;

    /// Address of the first byte that can be read directly.
    ///
    /// Read from the context each time it is asked, never remembered by the compiler: the verifier wants each access derived from
    /// the very pointer whose bounds were checked, which an optimiser that merges two checks would undo.
    fn data(&self) -> usize;
    /// Address behind the last byte that can be read directly.
    fn data_end(&self) -> usize;
    /// Length of the frame, of which the tail may lie where it can't be read directly.
    fn length(&self) -> usize;
    /// Index of the interface on which the packet came in.
    fn ifindex(&self) -> u32;

    /// Whether this hook takes the packet on. `partial` says that its L4 checksum looks unfinished, see
    /// [`lb_common::checksum::is_partial`].
    fn accept(&self, partial: bool) -> Result<(), Verdict>;

    /// The verdict on a packet that [`parse`](crate::parse::parse) turned away.
    #[inline(always)]
    fn judge_unparsed(verdict: Verdict) -> Verdict {
        verdict
    }

    /// Whether the packet is one that is cut to the size of the next hop later on (GSO), so that its own length means nothing.
    fn is_segmented_later(&self) -> bool;

    /// The context as helpers want it.
    fn raw(&self) -> RawContext;

    /// Asks the kernel's routing table; returns a `BPF_FIB_LKUP_RET_*` number or a negative error.
    #[inline(always)]
    fn fib_lookup(&self, params: &mut bpf_fib_lookup) -> i64 {
        // SAFETY: the context is the program's own, the parameter block is initialised and of the length that is given.
        unsafe { bpf_fib_lookup_helper(self.raw(), params, FIB_PARAMS_LENGTH, 0) }
    }

    /// Makes the L4 checksum right for a packet that now has the tuple `to`, all else already being rewritten.
    fn finish_l4_checksum<A: Address>(
        &self,
        packet: &Packet<A>,
        to: &FlowKey<A>,
        delta: &TupleDelta,
    ) -> Result<(), Verdict>;

    /// Sends the packet out of an interface and returns the hook's action for that.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the helper returns a hook's action, a small positive number"
    )]
    #[expect(clippy::cast_sign_loss, reason = "as above")]
    fn redirect(&self, ifindex: u32) -> u32 {
        // SAFETY: takes numbers only; an interface that is gone makes the kernel drop the packet.
        unsafe { bpf_redirect(ifindex, 0) as u32 }
    }

    /// A pointer to a `T` at `offset` bytes into the frame, or `None` if the frame ends before it does.
    ///
    /// The bounds check in the form that the verifier understands. Every access asks anew, since calls that change the packet
    /// invalidate earlier pointers.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        Some(start as *mut T)
    }

    /// As [`at`](Self::at), where an earlier stage has already seen the bytes.
    #[inline(always)]
    fn still_at<T>(&self, offset: usize) -> Result<*mut T, Verdict> {
        self.at(offset).ok_or(Verdict::Drop(DropReason::Vanished))
    }
}

/// The raw context pointer, as helpers want it.
pub(crate) type RawContext = *mut c_void;
