//! One frame through a loaded XDP program, by `BPF_PROG_TEST_RUN`: no traffic, exact bytes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, TestRun as _, TestRunOptions, programs::Xdp};

/// Room for what a program may add to a frame in front of it.
const HEADROOM: usize = 256;

/// What an XDP program told the kernel to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop it, with a trace event for an error.
    Aborted,
    /// Drop it.
    Drop,
    /// Give it to the kernel's network stack.
    Pass,
    /// Send it back out of the interface it came in on.
    Transmit,
    /// Send it out of the interface that the program named.
    Redirect,
    /// A number that stands for nothing; the kernel drops such frames.
    Unknown(u32),
}

impl From<u32> for Action {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Aborted,
            1 => Self::Drop,
            2 => Self::Pass,
            3 => Self::Transmit,
            4 => Self::Redirect,
            other => Self::Unknown(other),
        }
    }
}

/// Result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned.
    pub action: Action,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// Time of one run, averaged over the repetitions.
    pub duration: Duration,
}

/// How to run a frame.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Index of the interface it seems to come in on, in the namespace of the calling thread; `None`: the loopback interface.
    /// Route lookups of the program happen in that namespace as well.
    pub ingress: Option<u32>,
    /// Receive queue of that interface.
    pub queue: u32,
    /// Number of runs on the same frame, for measuring: each sees the frame as the last one left it.
    pub repeat: u32,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            ingress: None,
            queue: 0,
            repeat: 1,
        }
    }
}

/// The XDP program of this name in a loaded object.
///
/// # Errors
///
/// When there is none; the message lists those there are.
pub fn xdp<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = object.program(name).with_context(|| {
        let names: Vec<&str> = object.programs().map(|(name, _)| name).collect();
        format!("no program {name} in the object, only {}", names.join(", "))
    })?;
    program
        .try_into()
        .with_context(|| format!("program {name} is no XDP program"))
}

/// Loads the XDP program of this name into the kernel. It must be done once before [`run`].
///
/// # Errors
///
/// When there is none, or the verifier refuses it, with the verifier's log.
pub fn load(object: &mut Ebpf, name: &str) -> Result<()> {
    let program = object
        .program_mut(name)
        .with_context(|| format!("no program {name} in the object"))?;
    let program: &mut Xdp = program
        .try_into()
        .with_context(|| format!("program {name} is no XDP program"))?;
    program.load().with_context(|| format!("cannot load program {name}"))
}

/// Runs a frame through a program that is loaded.
///
/// What does not fit into a page, with its headroom and what the kernel keeps behind it, lies in further buffers, as that of a jumbo
/// frame does. The program must take packets of several buffers then.
///
/// # Errors
///
/// For a frame that the kernel can't run (less than an Ethernet header, more than 18 buffers) and an interface that is not in the
/// namespace of the calling thread.
pub fn run(program: &Xdp, frame: &[u8], options: RunOptions) -> Result<Outcome> {
    let mut output = vec![0; frame.len() + HEADROOM];
    let context = context(frame, options)?;
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            repeat: options.repeat,
            ..TestRunOptions::default()
        })
        .with_context(|| format!("cannot run a frame of {} bytes, {options:?}", frame.len()))?;
    let length = usize::try_from(result.data_size_out)?;
    ensure!(length <= output.len(), "the program made a frame of {length} bytes");
    output.truncate(length);
    Ok(Outcome {
        action: result.return_value.into(),
        frame: output,
        duration: result.duration,
    })
}

/// `struct xdp_md` as the kernel wants it: `data_end` is the frame's length, what the program may not set is zero.
fn context(frame: &[u8], options: RunOptions) -> Result<Vec<u8>> {
    let data_end = u32::try_from(frame.len())?;
    let loopback = 1;
    let fields = [
        0, // data
        data_end,
        0, // data_meta
        options.ingress.unwrap_or(loopback),
        options.queue,
        0, // egress_ifindex
    ];
    Ok(fields.into_iter().flat_map(u32::to_ne_bytes).collect())
}
