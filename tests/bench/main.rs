//! Nanoseconds per packet of each path through the data plane, by `BPF_PROG_TEST_RUN`.
//!
//! `cargo xtask bench` builds and runs this as root. The cases are in [`case`]; a round visits all of them, so that whatever else the
//! machine does meanwhile hits all alike, and the figures are the median and the least of several rounds.

mod case;
mod generator;
mod machine;
mod meter;
#[path = "../../lb-ebpf/bench/plan.rs"]
mod plan;
mod report;
mod subject;
mod table;

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{generator::Generator, machine::Machine, meter::Meter, report::Report};

/// Measures the data plane in nanoseconds per packet.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    disable_version_flag = true
)]
struct Options {
    /// Numbers of flows, powers of two; `k` is 1024, `M` is 1024 k. 1M takes some minutes and 1 GiB more
    #[arg(long, value_delimiter = ',', default_value = "1,1k,64k", value_parser = parse_flows)]
    flows: Vec<u32>,
    /// Rounds over all cases
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets of each case in a round; new connections: one per flow
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Only cases whose program and name contain this, such as `xlb_native reply`
    #[arg(long, default_value = "")]
    filter: String,
    /// The processor to run on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The most flows: with a quarter to spare, what a connection table may hold.
const MAX_FLOWS: u32 = 1 << 23;

/// A number such as `64k`.
fn parse_flows(text: &str) -> Result<u32> {
    let (digits, shift) = match text.strip_suffix('k') {
        Some(digits) => (digits, 10),
        None => text.strip_suffix('M').map_or((text, 0), |digits| (digits, 20)),
    };
    let number: u32 = digits.parse().context("not a number")?;
    let flows = number.checked_mul(1 << shift).filter(|flows| *flows <= MAX_FLOWS);
    let flows = flows.context("more than 8M")?;
    ensure!(flows.is_power_of_two(), "not a power of two");
    Ok(flows)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let object = env::var_os("XLB_BENCH_OBJECT")
        .map(PathBuf::from)
        .context("XLB_BENCH_OBJECT does not name the generator; run cargo xtask bench")?;
    lb_tests::topology::prepare()?;
    lb_tests::leftovers::remove_leftovers()?;
    pin_to(options.cpu)?;
    let load = machine::load()?;

    let mut generator = Generator::load(&object)?;
    let mut meter = Meter::new();
    let mut bench = subject::Bench::new(&options.flows, &options.filter, &mut generator)?;
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        bench.round(options.packets, &mut generator, &mut meter)?;
    }

    let report = Report {
        machine: Machine::describe(options.cpu, load)?,
        rounds: options.rounds,
        packets: options.packets,
        verified_instructions: bench.verified_instructions()?,
        figures: bench.figures()?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Keeps this thread on one processor, so that its counters and caches are always the same ones.
fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("there is no processor {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on processor {cpu}"))
}
