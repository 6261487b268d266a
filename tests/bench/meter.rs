//! Time and instructions of the calling thread.

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use perf_event::{Builder, Counter, events::Hardware};

/// What one packet cost, averaged over one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Nanoseconds of processor time.
    pub(crate) nanoseconds: f64,
    /// Instructions in the kernel; `None` where the processor's counters can't be had.
    pub(crate) instructions: Option<f64>,
}

/// Measures runs.
pub(crate) struct Meter {
    instructions: Option<Counter>,
}

impl Meter {
    /// With a counter of instructions if the machine has one to give: a virtual machine may not.
    pub(crate) fn new() -> Self {
        let counter = Builder::new(Hardware::INSTRUCTIONS)
            .exclude_user(true)
            .exclude_kernel(false)
            .build();
        let counter = counter.and_then(|mut counter| counter.enable().map(|()| counter));
        Self {
            instructions: counter.ok(),
        }
    }

    /// Does the work, which handles this many packets, and tells what one cost.
    ///
    /// The thread's own clock, since a test run also waits for other CPUs (its use of the program ends with an RCU grace period,
    /// some milliseconds); and not the duration that the kernel returns, which is cut to whole nanoseconds.
    ///
    /// # Errors
    ///
    /// Those of the work.
    pub(crate) fn measure(&mut self, packets: u32, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        let instructions = self.instructions()?;
        let start = processor_time()?;
        work()?;
        let end = processor_time()?;
        let instructions = self
            .instructions()?
            .zip(instructions)
            .map(|(after, before)| (after - before) / f64::from(packets));
        Ok(Sample {
            nanoseconds: (end - start) / f64::from(packets),
            instructions,
        })
    }

    fn instructions(&mut self) -> Result<Option<f64>> {
        let read = self.instructions.as_mut().map(Counter::read);
        let count = read.transpose().context("cannot read the counter of instructions")?;
        Ok(count.map(|count| count as f64))
    }
}

/// Processor time of this thread in nanoseconds.
fn processor_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("cannot read the thread's clock")?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
