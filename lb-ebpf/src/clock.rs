//! The time.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE` (kernel 5.11): exact to a timer tick, and much cheaper than the exact clock.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_coarse_ns() }
}
