//! Writing L4 checksums, and finishing those that a sender left to its network card.

use aya_ebpf::{
    bindings::{__be32, __wsum},
    helpers::generated::bpf_csum_diff,
};
use lb_common::{
    Address,
    checksum::{Sum, pseudo_header, udp_field},
    flow::{FlowKey, protocol},
    verdict::{DropReason, Verdict},
};

use crate::{context::Context, parse::Packet};

/// Offset of the checksum within the TCP header (RFC 9293, section 3.1).
const TCP_FIELD: usize = 16;
/// Offset of the checksum within the UDP header (RFC 768).
pub(crate) const UDP_FIELD: usize = 6;

/// Bytes that are summed by one call. A power of two: what is left over is summed in halves of it.
const CHUNK: usize = 256;
/// Most chunks of a frame: native XDP on virtual interfaces takes frames of one page at most, 3,520 bytes on veth.
const MAX_CHUNKS: usize = 16;

/// Offset of the L4 checksum field from the start of the frame.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most 74 bytes of headers before it")]
pub(crate) const fn l4_field_offset<A: Address>(packet: &Packet<A>) -> u32 {
    let field = if packet.key.protocol == protocol::TCP {
        TCP_FIELD
    } else {
        UDP_FIELD
    };
    (packet.l4 + field) as u32
}

/// Writes the L4 checksum field.
#[inline(always)]
pub(crate) fn write_l4<C: Context, A: Address>(ctx: &C, packet: &Packet<A>, field: u16) -> Result<(), Verdict> {
    // Two branches, each with a constant offset: with one variable offset the verifier loses the bounds.
    let pointer: *mut [u8; 2] = if packet.key.protocol == protocol::TCP {
        ctx.still_at(packet.l4 + TCP_FIELD)?
    } else {
        ctx.still_at(packet.l4 + UDP_FIELD)?
    };
    // SAFETY: `still_at` checked the bounds; bytes have no alignment.
    unsafe { *pointer = field.to_ne_bytes() };
    Ok(())
}

/// Computes the L4 checksum of a packet anew and writes it. All else has been rewritten to the tuple `to`.
///
/// For a packet with a finished and right checksum the result is what an incremental update gives.
#[inline(always)]
pub(crate) fn complete<C: Context, A: Address>(ctx: &C, packet: &Packet<A>, to: &FlowKey<A>) -> Result<(), Verdict> {
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

/// Sum of `length` bytes of the frame from `start` on: whole chunks in a loop, then what is left in powers of two.
///
/// Where a piece begins follows from the length alone, not from the pieces before it. So the verifier sees that all ways through
/// here end in the same state, and need not follow each combination of pieces.
#[inline(always)]
fn sum_frame<C: Context>(ctx: &C, start: usize, length: usize) -> Result<Sum, Verdict> {
    const LENGTH_MASK: usize = MAX_CHUNKS * CHUNK - 1;
    if length > LENGTH_MASK {
        return Err(DropReason::TooBig.into());
    }
    let length = length & LENGTH_MASK;
    let mut sum = 0;
    for chunk in 0..MAX_CHUNKS {
        if (chunk + 1) * CHUNK > length {
            break;
        }
        sum = add::<C, CHUNK>(ctx, start + chunk * CHUNK, sum)?;
    }
    macro_rules! add_piece {
        ($($size:literal),+) => {
            $(if length & $size != 0 {
                sum = add::<C, $size>(ctx, start + (length & (LENGTH_MASK ^ (2 * $size - 1))), sum)?;
            })+
        };
    }
    add_piece!(128, 64, 32, 16, 8, 4);
    let mut sum = Sum::from_kernel(sum);
    if length & 2 != 0 {
        let word: *const [u8; 2] = ctx.still_at(start + (length & (LENGTH_MASK ^ 3)))?;
        // SAFETY: `still_at` checked the bounds; bytes have no alignment.
        sum = sum.add16(u16::from_ne_bytes(unsafe { *word }));
    }
    if length & 1 != 0 {
        // Together with the byte before it, which every L4 header has: a bounds check for a single byte becomes a comparison of which the
        // verifier learns nothing.
        let last: *const [u8; 2] = ctx.still_at(start + (length & (LENGTH_MASK ^ 1)) - 1)?;
        // SAFETY: `still_at` checked the bounds; bytes have no alignment.
        let [_, last] = unsafe { *last };
        sum = sum.add16(u16::from_ne_bytes([last, 0]));
    }
    Ok(sum)
}

/// Adds `SIZE` bytes at offset `at` to a sum in the kernel's form.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the helper returns an unfolded sum of 32 bits"
)]
#[expect(clippy::cast_sign_loss, reason = "as above")]
fn add<C: Context, const SIZE: usize>(ctx: &C, at: usize, sum: __wsum) -> Result<__wsum, Verdict> {
    let bytes: *mut [u8; SIZE] = ctx.still_at(at)?;
    // SAFETY: `still_at` checked the bounds; the helper only reads, at any alignment.
    Ok(unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast::<__be32>(), SIZE as u32, sum) as __wsum })
}
