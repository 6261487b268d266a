//! Writing L4 checksums, and finishing those that a sender left to its network card.

use aya_ebpf::{
    bindings::{__be32, __wsum},
    helpers::generated::bpf_csum_diff,
};
use lb_common::{
    Address,
    checksum::{Sum, pseudo_header, udp_field},
    flow::{FlowKey, protocol},
    verdict::Verdict,
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
pub(crate) fn l4_field_offset<A: Address>(packet: &Packet<A>) -> usize {
    packet.l4
        + if packet.key.protocol == protocol::TCP {
            TCP_FIELD
        } else {
            UDP_FIELD
        }
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

/// Sum of `length` bytes of the frame from `start` on.
#[inline(always)]
fn sum_frame<C: Context>(ctx: &C, start: usize, length: usize) -> Result<Sum, Verdict> {
    let mut sum = 0;
    let mut at = start;
    for _ in 0..MAX_CHUNKS {
        if at + CHUNK > start + length {
            break;
        }
        sum = add::<C, CHUNK>(ctx, at, sum)?;
        at += CHUNK;
    }
    let rest = length % CHUNK;
    macro_rules! add_if_left {
        ($($size:literal),+) => {
            $(if rest & $size != 0 {
                sum = add::<C, $size>(ctx, at, sum)?;
                at += $size;
            })+
        };
    }
    add_if_left!(128, 64, 32, 16, 8, 4);
    let mut sum = Sum::from_kernel(sum);
    if rest & 2 != 0 {
        let word: *const [u8; 2] = ctx.still_at(at)?;
        // SAFETY: `still_at` checked the bounds; bytes have no alignment.
        sum = sum.add16(u16::from_ne_bytes(unsafe { *word }));
        at += 2;
    }
    if rest & 1 != 0 {
        let byte: *const u8 = ctx.still_at(at)?;
        // SAFETY: `still_at` checked the bounds.
        sum = sum.add16(u16::from_ne_bytes([unsafe { *byte }, 0]));
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
