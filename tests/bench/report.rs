//! What came out, for people and as JSON.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{machine::Machine, meter::Sample};

/// The whole output. The JSON form has these names.
#[derive(Serialize)]
pub(crate) struct Report {
    /// What it was measured on.
    pub(crate) machine: Machine,
    /// Rounds over all cases.
    pub(crate) rounds: u32,
    /// Packets of a case in a round; new connections have one per flow.
    pub(crate) packets: u32,
    /// Instructions that the verifier walked through, by program.
    pub(crate) verified_instructions: BTreeMap<&'static str, Option<u32>>,
    /// The figures.
    pub(crate) figures: Vec<Figures>,
}

/// One line of the table: what a packet costs.
#[derive(Serialize)]
pub(crate) struct Figures {
    /// The program.
    program: &'static str,
    /// The case.
    case: &'static str,
    /// Number of flows.
    flows: Option<u32>,
    /// The cost of a packet, without that of the generator.
    #[serde(flatten)]
    cost: Statistic,
    /// The median as a multiple of the empty program's.
    times_empty: f64,
}

/// The cost of one packet over all rounds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Statistic {
    /// Median of the rounds, in nanoseconds.
    median_ns: f64,
    /// The least, in nanoseconds: closest to a machine that does nothing else.
    min_ns: f64,
    /// Median of the instructions, where the machine counts them.
    instructions: Option<f64>,
}

impl Statistic {
    /// Of one sample a round; `None` without any.
    pub(crate) fn of(samples: &[Sample]) -> Option<Self> {
        let nanoseconds: Vec<f64> = samples.iter().map(|sample| sample.nanoseconds).collect();
        let instructions: Vec<f64> = samples.iter().filter_map(|sample| sample.instructions).collect();
        Some(Self {
            median_ns: median(&nanoseconds)?,
            min_ns: nanoseconds.iter().copied().min_by(f64::total_cmp)?,
            instructions: median(&instructions),
        })
    }

    /// What is left without another, figure by figure.
    pub(crate) fn less(&self, other: &Self) -> Self {
        Self {
            median_ns: self.median_ns - other.median_ns,
            min_ns: self.min_ns - other.min_ns,
            instructions: self
                .instructions
                .zip(other.instructions)
                .map(|(own, other)| own - other),
        }
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle - 1)? + upper) / 2.0)
}

impl Figures {
    /// A line; `empty` is the cost of the empty program in the same run.
    pub(crate) fn new(
        program: &'static str,
        case: &'static str,
        flows: Option<u32>,
        cost: Statistic,
        empty: &Statistic,
    ) -> Self {
        Self {
            program,
            case,
            flows,
            cost,
            times_empty: cost.median_ns / empty.median_ns,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        for (program, count) in &self.verified_instructions {
            let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            writeln!(f, "{:<13}{program}: {count} instructions verified", "program")?;
        }
        let Self { rounds, packets, .. } = self;
        writeln!(f, "{:<13}{rounds} rounds of {packets} packets\n", "run")?;
        writeln!(
            f,
            "{:<16} {:<29} {:>6} {:>8} {:>8} {:>8} {:>13}",
            "program", "case", "flows", "ns", "min ns", "x empty", "instructions"
        )?;
        self.figures.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program, case, cost, ..
        } = self;
        let flows = self.flows.map_or_else(|| "-".to_owned(), flows_text);
        let instructions = cost
            .instructions
            .map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        write!(
            f,
            "{program:<16} {case:<29} {flows:>6} {:>8.1} {:>8.1} {:>8.1} {instructions:>13}",
            cost.median_ns, cost.min_ns, self.times_empty
        )
    }
}

/// A number of flows as it is given on the command line.
fn flows_text(flows: u32) -> String {
    match flows.trailing_zeros() {
        20.. => format!("{}M", flows >> 20),
        10.. => format!("{}k", flows >> 10),
        _ => flows.to_string(),
    }
}
