//! Writing L4 checksums, finishing those that a sender left to its network card, and sums over a frame.

use aya_ebpf::{bindings::__wsum, helpers::generated::bpf_csum_diff};
use lb_common::{
    checksum::{Sum, pseudo_header, udp_field},
    flow::{FlowKey, protocol},
    packet::{Even, Ip, Packet, TCP_CHECKSUM, UDP_CHECKSUM},
    verdict::{DropReason, Verdict},
};

use crate::{
    context::{Context, forget},
    scratch,
};

/// Bytes that are summed by one call: what `bpf_csum_diff` takes at most.
const CHUNK: usize = 512;
/// Most chunks that are summed: of the largest jumbo frames in use, 9,216 bytes, with room.
const MAX_CHUNKS: usize = 20;
/// All bits of a length that is summed.
const LENGTH_MASK: usize = 0x3fff;
const _: () = assert!(MAX_CHUNKS * CHUNK <= LENGTH_MASK);

/// Offset of the L4 checksum field from the start of the frame.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "headers end within 16 KiB")]
pub(crate) const fn l4_field_offset<A>(packet: &Packet<A>) -> u32
where
    A: Ip,
{
    let field = if packet.key.protocol == protocol::TCP {
        TCP_CHECKSUM
    } else {
        UDP_CHECKSUM
    };
    (packet.l4 + field) as u32
}

/// Writes the L4 checksum field.
#[inline(always)]
pub(crate) fn write_l4<C: Context, A: Ip>(ctx: C, packet: &Packet<A>, field: u16) -> Result<(), Verdict> {
    // Two branches, each with a constant offset: with one variable offset the verifier loses the bounds.
    let pointer: *mut Even<[u8; 2]> = if packet.key.protocol == protocol::TCP {
        ctx.still_at(packet.l4 + TCP_CHECKSUM)?
    } else {
        ctx.still_at(packet.l4 + UDP_CHECKSUM)?
    };
    // SAFETY: `still_at` checked the bounds; a header begins at an even address.
    unsafe { *pointer = Even(field.to_ne_bytes()) };
    Ok(())
}

/// Computes the L4 checksum of a packet anew and writes it. All else has been rewritten to the tuple `to`.
///
/// For a packet with a finished and right checksum the result is what an incremental update gives.
#[inline(always)]
pub(crate) fn complete<C: Context, A: Ip>(ctx: C, packet: &Packet<A>, to: &FlowKey<A>) -> Result<(), Verdict> {
    write_l4(ctx, packet, 0)?;
    let length = usize::from(packet.l4_length);
    let sum = pseudo_header(to, packet.l4_length).add(sum_frame(ctx, packet.l4, length)?);
    let field = sum.checksum();
    let field = if to.protocol == protocol::UDP {
        udp_field(field)
    } else {
        field
    };
    write_l4(ctx, packet, field)
}

/// Sum of `length` bytes of the frame from `start` on.
///
/// Copied piece by piece first: the tail of a jumbo frame lies where it can't be read directly, and the verifier wants bounds that
/// do not depend on the packet.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths of pieces, and an unfolded sum of 32 bits"
)]
#[expect(clippy::cast_sign_loss, reason = "as above")]
pub(crate) fn sum_frame<C: Context>(ctx: C, start: usize, length: usize) -> Result<Sum, Verdict> {
    // With room for the zeros that make a piece a multiple of four bytes.
    let scratch = scratch::borrow::<[u8; CHUNK + 4]>().ok_or(DropReason::Vanished)?;
    let scratch = scratch.cast::<u8>();
    if length > MAX_CHUNKS * CHUNK {
        return Err(DropReason::TooBig.into());
    }
    // Where the compiler knows a bound, it takes out the loop's own, of which the verifier then knows nothing.
    let length = forget(length) & LENGTH_MASK;
    let mut sum: __wsum = 0;
    for chunk in 0..MAX_CHUNKS {
        let at = chunk * CHUNK;
        if at >= length {
            return Ok(Sum::from_kernel(sum));
        }
        // At least 1 and at most `CHUNK`, in the one form that the verifier understands.
        let size = (forget((length - at).min(CHUNK) - 1) & (CHUNK - 1)) + 1;
        // SAFETY: the buffer has `CHUNK` bytes, and four more for the zeros. The helper reads what was written here.
        unsafe {
            ctx.load(start + at, scratch.cast(), size as u32)?;
            scratch.add(size).cast::<[u8; 4]>().write_unaligned([0; 4]);
            let padded = (size as u32 + 3) & !3;
            sum = bpf_csum_diff(core::ptr::null_mut(), 0, scratch.cast(), padded, sum) as __wsum;
        }
    }
    Ok(Sum::from_kernel(sum))
}
