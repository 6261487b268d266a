//! Drives the BPF program that makes the frames.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use lb_tests::program::{self, Action, Outcome, RunOptions};

use crate::{
    case::Frames,
    plan::{self, MAX_FRAME_LENGTH, Plan},
};

/// The program that makes a frame and hands it on.
const ENTRY: &str = "xlb_bench_entry";
/// The program that does nothing.
const EMPTY: &str = "xlb_bench_empty";

// SAFETY: `#[repr(C)]` without gaps (96 + 7 * 4 bytes and their padding field), every bit pattern is a value.
unsafe impl aya::Pod for Plan {}

/// In which order flows are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other: how connections are made.
    Ascending,
    /// Mixed, so that no prefetcher can follow.
    Mixed,
}

/// The loaded generator. One program at a time is behind it.
pub(crate) struct Generator {
    object: Ebpf,
    plan: Array<MapData, Plan>,
    target: ProgramArray<MapData>,
    empty: ProgramFd,
    /// Length of the frames, in bytes.
    length: usize,
}

impl Generator {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// When the object is not there or the kernel refuses it.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let mut object = Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
        for name in [ENTRY, EMPTY] {
            program::load(&mut object, name)?;
        }
        let plan = object.take_map("PLAN").context("the generator has no map PLAN")?;
        let target = object.take_map("TARGET").context("the generator has no map TARGET")?;
        let empty = program::xdp(&object, EMPTY)?.fd()?.try_clone()?;
        Ok(Self {
            plan: plan.try_into()?,
            target: target.try_into()?,
            empty,
            object,
            length: MAX_FRAME_LENGTH,
        })
    }

    /// A handle of the empty program, to be put behind the generator like any other.
    pub(crate) fn empty(&self) -> Result<ProgramFd> {
        self.empty
            .try_clone()
            .context("cannot duplicate a program's descriptor")
    }

    /// Puts a program behind the generator and says what it gets from the next run on: these frames of `flows` flows.
    ///
    /// # Errors
    ///
    /// When the number of flows is no power of two, the frame has another length than the generator's, or the kernel won't call
    /// the program from the generator.
    pub(crate) fn aim(&mut self, target: &ProgramFd, frames: &Frames, flows: u32, order: Order) -> Result<()> {
        ensure!(flows.is_power_of_two(), "{flows} flows are no power of two");
        let mask = flows - 1;
        let (template, length) = template(frames)?;
        let (address_at, port_at) = frames.client_at();
        self.length = length;
        let plan = Plan {
            template,
            made: 0,
            mask,
            shuffle: match order {
                Order::Ascending => 0,
                Order::Mixed => (mask.count_ones() / 2).max(1),
            },
            address_at,
            port_at,
            length: u32::try_from(length)?,
            padding: 0,
        };
        self.plan.set(0, plan, 0).context("cannot write the generator's plan")?;
        self.target
            .set(0, target, 0)
            .context("cannot put a program behind the generator")
    }

    /// Makes this many frames, each for one run of the program behind the generator. Returns the outcome of the last one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run or the program can't be called.
    pub(crate) fn run(&self, packets: u32) -> Result<Outcome> {
        let outcome = run(program::xdp(&self.object, ENTRY)?, self.length, packets)?;
        ensure!(
            outcome.action != Action::Aborted,
            "the generator did not reach the program"
        );
        Ok(outcome)
    }

    /// Runs the empty program itself, without the generator.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the run.
    pub(crate) fn run_empty(&self, packets: u32) -> Result<()> {
        run(program::xdp(&self.object, EMPTY)?, self.length, packets).map(drop)
    }
}

fn run(program: &Xdp, length: usize, packets: u32) -> Result<Outcome> {
    let options = RunOptions {
        repeat: packets,
        ..RunOptions::default()
    };
    program::run(program, &vec![0; length], options)
}

/// Shortest frame of Ethernet in bytes, with its four bytes of checksum.
const SHORTEST: usize = 64;

/// The frame of flow 0, as the generator's map has it, and its length.
fn template(frames: &Frames) -> Result<([u64; MAX_FRAME_LENGTH / 8], usize)> {
    let ([high, low], port) = plan::client(0);
    let packet = (frames.of)(frames.client(u32::from(high) << 16 | u32::from(low)), port);
    let bare = packet.build().len();
    let length = bare.max(SHORTEST).next_multiple_of(8);
    ensure!(length <= MAX_FRAME_LENGTH, "a frame of {length} bytes is too long");
    let frame = packet.payload(&vec![0x5a; length - bare]).build();
    let mut template = [0; MAX_FRAME_LENGTH / 8];
    for (word, bytes) in template.iter_mut().zip(frame.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok((template, length))
}
