//! Atomic operations on map values.
//!
//! `core::sync::atomic` has no read-modify-write operations on the BPF target, so these are the compiler's intrinsics. With
//! `-C target-cpu=v3` they become single instructions (kernel 5.12).
//!
//! All are sequentially consistent: the BPF backend compiles a relaxed addition to the instruction that returns nothing, even where
//! its result is used, which then is the summand.

use core::intrinsics::{AtomicOrdering, atomic_and, atomic_or, atomic_xadd};

/// Adds to a shared number and returns what it was; wraps around.
///
/// # Safety
///
/// `number` points to a map value.
#[inline(always)]
pub(crate) unsafe fn fetch_add(number: *mut u64, summand: u64) -> u64 {
    // SAFETY: the caller guarantees a valid, aligned map value, which the kernel keeps alive for the run of the program.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(number, summand) }
}

/// Sets bits in a shared word and returns what it was.
///
/// # Safety
///
/// `word` points to a map value.
#[inline(always)]
pub(crate) unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_or::<u32, u32, { AtomicOrdering::SeqCst }>(word, bits) }
}

/// Keeps only some bits of a shared word and returns what it was.
///
/// # Safety
///
/// `word` points to a map value.
#[inline(always)]
pub(crate) unsafe fn fetch_and(word: *mut u32, bits: u32) -> u32 {
    // SAFETY: as in `fetch_add`.
    unsafe { atomic_and::<u32, u32, { AtomicOrdering::SeqCst }>(word, bits) }
}
