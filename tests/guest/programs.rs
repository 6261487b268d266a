//! The programs of the data plane, loaded one by one.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::programs::Program;
use lb_common::maps::programs::PASS;
use lb_tests::{leftovers::Instance, topology::prepare};
use xlb::dataplane::{
    aya::{AyaDataplane, Options, remove_all},
    pins::Pins,
};

/// Maps of their own for the programs, removed when dropped.
pub(crate) struct Maps {
    dataplane: AyaDataplane,
    pins: PathBuf,
}

impl Drop for Maps {
    fn drop(&mut self) {
        if let Ok(Some(pins)) = Pins::open(&self.pins) {
            let _nothing_is_attached = remove_all(pins, &[]);
        }
    }
}

impl Maps {
    pub(crate) fn new() -> Result<Self> {
        prepare()?;
        let pins = Instance::next().pins();
        let options = Options {
            max_connections: 1000,
            max_half_open: 0,
        };
        let dataplane = AyaDataplane::open(Pins::create(&pins)?, options)?;
        Ok(Self { dataplane, pins })
    }

    /// The names of the programs of the packet path: all in the object but the one that leaves everything to the kernel.
    pub(crate) fn programs(&mut self) -> Vec<String> {
        let programs = self.dataplane.ebpf_mut().programs().map(|(name, _)| name.to_owned());
        programs.filter(|name| name != PASS).collect()
    }

    /// Loads a program and returns it. The error holds what the verifier said.
    pub(crate) fn load(&mut self, name: &str) -> Result<&Program> {
        let program = self.dataplane.ebpf_mut().program_mut(name);
        let program = program.with_context(|| format!("no program {name} in the object"))?;
        match program {
            Program::Xdp(xdp) => xdp.load()?,
            Program::SchedClassifier(tc) => tc.load()?,
            other => anyhow::bail!("{name} is neither for XDP nor for tc: {other:?}"),
        }
        Ok(program)
    }
}
