//! The cases with the data planes they need, and the rounds over them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_tests::{checksum::Sum, packet::ETHERNET_LENGTH};

use crate::{
    case::{CASES, Case, Content, FORWARD},
    generator::{Generator, Order},
    meter::{Meter, Sample},
    report::{Figures, Statistic},
    table::{PROGRAMS, Table},
};

/// Everything that is measured, and what was measured so far.
pub(crate) struct Bench {
    tables: Vec<Table>,
    /// The empty program by itself: what a run of any program costs.
    empty: Vec<Sample>,
    /// The empty program behind the generator.
    generated: Vec<Sample>,
    subjects: Vec<Subject>,
}

/// A case with a number of flows.
struct Subject {
    case: &'static Case,
    flows: u32,
    /// Index of its data plane.
    table: usize,
    samples: Vec<Sample>,
}

impl Bench {
    /// Every case that contains `filter`, with every number of flows that it takes.
    ///
    /// # Errors
    ///
    /// When there is none, or a data plane can't be loaded.
    pub(crate) fn new(flows: &[u32], filter: &str, generator: &mut Generator) -> Result<Self> {
        let mut bench = Self {
            tables: Vec::new(),
            empty: Vec::new(),
            generated: Vec::new(),
            subjects: Vec::new(),
        };
        let chosen = CASES
            .iter()
            .filter(|case| format!("{} {}", case.program, case.name).contains(filter));
        for case in chosen {
            for flows in flows.iter().copied().filter(|flows| case.takes(*flows)) {
                let table = bench.table(case.table, flows, generator)?;
                bench.subjects.push(Subject {
                    case,
                    flows,
                    table,
                    samples: Vec::new(),
                });
            }
        }
        ensure!(
            !bench.subjects.is_empty(),
            "no case contains `{filter}` and takes as few flows"
        );
        Ok(bench)
    }

    /// Index of the data plane with this content, made if there is none.
    fn table(&mut self, content: Content, flows: u32, generator: &mut Generator) -> Result<usize> {
        let known = self.tables.iter().position(|table| table.content() == (content, flows));
        if let Some(index) = known {
            return Ok(index);
        }
        let table = Table::new(content, flows, generator)
            .with_context(|| format!("cannot make a data plane for {flows} flows"))?;
        self.tables.push(table);
        Ok(self.tables.len() - 1)
    }

    /// Measures everything once.
    ///
    /// # Errors
    ///
    /// When a run fails, or a program does something else than what is measured.
    pub(crate) fn round(&mut self, packets: u32, generator: &mut Generator, meter: &mut Meter) -> Result<()> {
        self.empty
            .push(meter.measure(packets, || generator.run_empty(packets))?);
        generator.aim(&generator.empty()?, &FORWARD, 1, Order::Mixed)?;
        self.generated
            .push(meter.measure(packets, || generator.run(packets).map(drop))?);
        for subject in &mut self.subjects {
            let table = self
                .tables
                .get_mut(subject.table)
                .context("a case without data plane")?;
            let measured = subject.measure(table, packets, generator, meter);
            let context = || {
                format!(
                    "{}, {}, {} flows",
                    subject.case.program, subject.case.name, subject.flows
                )
            };
            subject.samples.push(measured.with_context(context)?);
        }
        Ok(())
    }

    /// Instructions that the verifier walked through, by program.
    ///
    /// # Errors
    ///
    /// When nothing is measured.
    pub(crate) fn verified_instructions(&self) -> Result<BTreeMap<&'static str, Option<u32>>> {
        let table = self.tables.first().context("no data plane")?;
        PROGRAMS
            .iter()
            .map(|name| Ok((*name, table.program(name)?.verified_instructions)))
            .collect()
    }

    /// What came out: the empty program by itself, the generator, then the cases.
    ///
    /// # Errors
    ///
    /// When there was no round.
    pub(crate) fn figures(&self) -> Result<Vec<Figures>> {
        let empty = Statistic::of(&self.empty).context("no round was run")?;
        let generated = Statistic::of(&self.generated).context("no round was run")?;
        let generator = generated.less(&empty);
        let mut figures = vec![
            Figures::new("-", "empty program", None, empty, &empty),
            Figures::new("-", "generator, subtracted below", None, generator, &empty),
        ];
        for subject in &self.subjects {
            let gross = Statistic::of(&subject.samples).context("no round was run")?;
            figures.push(Figures::new(
                subject.case.program,
                subject.case.name,
                Some(subject.flows),
                gross.less(&generator),
                &empty,
            ));
        }
        Ok(figures)
    }
}

impl Subject {
    /// Runs it once, and makes sure that each packet went the way that is measured.
    fn measure(&self, table: &mut Table, packets: u32, generator: &mut Generator, meter: &mut Meter) -> Result<Sample> {
        generator.aim(
            &table.program(self.case.program)?.fd,
            &self.case.frames,
            self.flows,
            Order::Mixed,
        )?;
        let before = table.verdicts()?;
        let (warm_up, packets) = match self.case.table {
            // A lap over all flows that isn't measured: then every time stamp in the table is fresh. A busy gateway's are.
            Content::Established => (self.flows, packets),
            // One packet a flow; the next would find a connection.
            Content::Nothing => (0, self.flows),
        };
        if warm_up > 0 {
            let last = generator.run(warm_up)?;
            ensure!(
                !self.case.frames.unfinished || has_right_checksum(&last.frame),
                "the program did not finish the checksum"
            );
        }
        let connections = table.connections()?;
        let sample = meter.measure(packets, || generator.run(packets).map(drop))?;
        table.check_verdicts(&before, self.case.reason, warm_up + packets)?;
        let opened = table.connections()? - connections;
        match self.case.table {
            Content::Established => ensure!(opened == 0, "{opened} connections were not established"),
            Content::Nothing => {
                ensure!(opened == u64::from(self.flows), "{opened} new connections");
                table.clear()?;
            }
        }
        Ok(sample)
    }
}

/// Whether the TCP checksum of a frame is right, by a sum of its own. The frame has no IP options and no trailer.
fn has_right_checksum(frame: &[u8]) -> bool {
    const IP_LENGTH: usize = 20;
    let Some((ip, tcp)) = frame
        .get(ETHERNET_LENGTH..)
        .and_then(|packet| packet.split_at_checked(IP_LENGTH))
    else {
        return false;
    };
    let [.., protocol, _, _, a, b, c, d, e, f, g, h] = *ip else {
        return false;
    };
    u32::try_from(tcp.len()).is_ok_and(|length| {
        let sum = Sum::default().plus_pseudo_header([a, b, c, d].into(), [e, f, g, h].into(), protocol, length);
        sum.plus(tcp).folded() == 0xffff
    })
}
