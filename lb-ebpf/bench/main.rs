//! The generator of the benchmark: makes a fresh frame and hands it to the program that is measured.
//!
//! `BPF_PROG_TEST_RUN` with repetitions gives each run the frame as the last one left it, so a program that rewrites would see its own
//! output from the second run on. Run through [`xlb_bench_entry`] it sees a new packet each time, of one flow after the other. What
//! the entry costs is measured with [`xlb_bench_empty`] behind it.
//!
//! Nothing of this is part of the product: `cargo xtask bench` builds and loads it.

#![no_std]
#![no_main]

mod plan;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

use crate::plan::Plan;

/// Mask of the offsets within a frame that are written to.
const OFFSETS: usize = 63;

#[btf_map]
static PLAN: Array<Plan, 1> = Array::new();

/// The program that is measured.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// The floor: what any program costs.
#[xdp(frags)]
const fn xlb_bench_empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Makes the next frame of the plan and jumps to the target. Returns only when there is none.
#[xdp(frags)]
#[expect(clippy::needless_pass_by_value, reason = "the entry point hands it over")]
fn xlb_bench_entry(ctx: XdpContext) -> u32 {
    let Some(plan) = PLAN.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: a valid map value; one test run at a time uses it.
    let plan = unsafe { &mut *plan };
    let frame = ctx.data();
    for (index, word) in plan.template.iter().enumerate() {
        if 8 * index >= plan.length as usize {
            break;
        }
        let place = frame + 8 * index;
        if place + 8 > ctx.data_end() {
            return XDP_ABORTED;
        }
        // Volatile, or it becomes a call of `memcpy`, which on the BPF target copies byte by byte.
        // SAFETY: the bounds were checked, and XDP places a frame at a multiple of 8 bytes behind its headroom.
        unsafe { (place as *mut u64).write_volatile(*word) };
    }
    let mut flow = plan.made & plan.mask;
    if plan.shuffle != 0 {
        flow = shuffle(flow, plan.mask, plan.shuffle);
    }
    plan.made = plan.made.wrapping_add(1);
    let (address, port) = plan::client(flow);
    let address_at = frame + (plan.address_at as usize & OFFSETS);
    let port_at = frame + (plan.port_at as usize & OFFSETS);
    if address_at + 4 > ctx.data_end() || port_at + 2 > ctx.data_end() {
        return XDP_ABORTED;
    }
    // SAFETY: within the frame, whose bounds were checked, and at even offsets.
    unsafe { (address_at as *mut [u16; 2]).write(address.map(u16::to_be)) };
    // SAFETY: as above.
    unsafe { (port_at as *mut u16).write(port.to_be()) };

    // SAFETY: nothing here waits to be dropped.
    unsafe { TARGET.tail_call(&ctx, 0) };
    XDP_ABORTED
}

/// Another number in `0..=mask`, different for different numbers; `shift` is [`Plan::shuffle`].
///
/// Flows that are visited in the order in which their entries were made lie side by side in memory, and the prefetcher would make a
/// large table look twice as fast as it is. Each step can be undone (a shift that is added back, a product with an odd number), so
/// all of them together visit every flow once.
#[inline(always)]
const fn shuffle(number: u32, mask: u32, shift: u32) -> u32 {
    let mut mixed = number & mask;
    mixed ^= mixed >> shift;
    mixed = mixed.wrapping_mul(0x9e37_79b1) & mask;
    mixed ^= mixed >> shift;
    mixed = mixed.wrapping_mul(0x85eb_ca6b) & mask;
    mixed ^ (mixed >> shift)
}

#[cfg(not(test))]
#[panic_handler]
const fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
