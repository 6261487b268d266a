//! A data plane with one service and many connections.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use lb_common::{
    LAYOUT_VERSION,
    backend::{NextHop, Tags},
    limits::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HALF_OPEN},
    maps::programs,
    service::{Forwarding, Scheduler, Service},
    settings::{PortRange, Settings},
    verdict::ForwardReason,
};
use lb_tests::{
    leftovers::Instance,
    names::{BACKEND_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC},
    program,
};
use xlb::{
    dataplane::{
        BackendEntry, BackendId, Dataplane as _, ListenerEntry, ServiceId,
        aya::{AyaDataplane, Options},
        pins::Pins,
    },
    model::Protocol,
};

use crate::{
    case::{BACKEND_PORT, Content, FORWARD, FORWARD_V6, Frames, PORT, SYN, SYN_ACK, SYN_ACK_V6, SYN_V6},
    generator::{Generator, Order},
};

/// One service with one backend for each family.
const SERVICES: [(Family, ServiceId, BackendId); 2] = [
    (Family::V4, ServiceId(1), BackendId(1)),
    (Family::V6, ServiceId(2), BackendId(2)),
];

/// The interface that frames go out of: loopback, which a test run never reaches.
const LOOPBACK: u32 = 1;

/// The programs that are measured.
pub(crate) const PROGRAMS: [&str; 2] = [programs::NATIVE, programs::NATIVE_VIRTUAL];

/// A program in the kernel.
pub(crate) struct Loaded {
    /// A handle of it.
    pub(crate) fd: ProgramFd,
    /// Instructions that the verifier walked through; `None` before kernel 5.16.
    pub(crate) verified_instructions: Option<u32>,
}

/// A data plane of its own, removed when dropped.
pub(crate) struct Table {
    dataplane: AyaDataplane,
    instance: Instance,
    content: Content,
    flows: u32,
    programs: BTreeMap<&'static str, Loaded>,
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("the next run removes what is left: {error:#}");
        }
    }
}

impl Table {
    /// Loads a data plane, with room as the agent makes it by default or as the flows need, and fills it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something.
    pub(crate) fn new(content: Content, flows: u32, generator: &mut Generator) -> Result<Self> {
        let instance = Instance::next();
        let pins = Pins::create(&instance.pins())?;
        let options = Options {
            max_connections: DEFAULT_MAX_CONNECTIONS.max(flows.saturating_add(flows / 4)),
            max_half_open: DEFAULT_MAX_HALF_OPEN,
        };
        let mut table = Self {
            dataplane: AyaDataplane::open(pins, options)?,
            instance,
            content,
            flows,
            programs: BTreeMap::new(),
        };
        table.load()?;
        table.configure()?;
        table.establish(generator)?;
        if content == Content::Nothing {
            // The kernel hands out the entries of a fresh table in the order of their addresses, those of a used one mixed.
            table.clear()?;
        }
        Ok(table)
    }

    /// What it holds.
    pub(crate) const fn content(&self) -> (Content, u32) {
        (self.content, self.flows)
    }

    /// One of [`PROGRAMS`].
    ///
    /// # Errors
    ///
    /// When it is none of them.
    pub(crate) fn program(&self, name: &str) -> Result<&Loaded> {
        self.programs
            .get(name)
            .with_context(|| format!("the benchmark loads no {name}"))
    }

    /// Packets so far by the number of their reason, events included.
    ///
    /// # Errors
    ///
    /// When the counters can't be read.
    pub(crate) fn verdicts(&self) -> Result<Vec<u64>> {
        Ok(self.dataplane.verdicts()?)
    }

    /// Connections opened so far.
    ///
    /// # Errors
    ///
    /// When the counters can't be read.
    pub(crate) fn connections(&self) -> Result<u64> {
        SERVICES.iter().try_fold(0, |sum, (_, service, _)| {
            Ok(sum + self.dataplane.service_traffic(*service)?.connections)
        })
    }

    /// Removes all connections.
    ///
    /// # Errors
    ///
    /// When one can't be removed.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let mut keys = Vec::new();
        self.dataplane.for_each_connection(&mut |entry| keys.push(entry.key))?;
        for key in &keys {
            self.dataplane.remove_connection(key)?;
        }
        self.dataplane.set_half_open(0)?;
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        for name in PROGRAMS {
            program::load(self.dataplane.ebpf_mut(), name)?;
            let program = program::xdp(self.dataplane.ebpf_mut(), name)?;
            let loaded = Loaded {
                fd: program.fd()?.try_clone()?,
                verified_instructions: program.info()?.verified_instruction_count(),
            };
            self.programs.insert(name, loaded);
        }
        Ok(())
    }

    /// The services, whose backends' ways are known.
    fn configure(&mut self) -> Result<()> {
        for (family, service, backend) in SERVICES {
            self.add_service(family, service, backend)?;
        }
        self.dataplane.set_settings(Settings {
            layout: LAYOUT_VERSION,
            hash_seed: 0,
            half_open_max: u32::MAX,
            snat_addresses_v4: 0,
            snat_addresses_v6: 0,
            port_prefixes: 0,
            snat_ports: PortRange {
                first: 1024,
                last: u16::MAX,
            },
            host_ports: PortRange::EMPTY,
        })?;
        Ok(())
    }

    fn add_service(&mut self, family: Family, id: ServiceId, backend_id: BackendId) -> Result<()> {
        let backend = BackendEntry {
            service: id,
            address: SocketAddr::from((family.backend(1), BACKEND_PORT)),
            alive: true,
            next_hop: NextHop::new(LOOPBACK, BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC, Tags::NONE, 1500),
            source: family.snat(),
            on_link: 0,
        };
        let service = Service::new(Scheduler::RoundRobin, Forwarding::Nat);
        let listener = ListenerEntry::single(family.vip(), Protocol::Tcp, PORT);
        self.dataplane.set_backend(backend_id, &backend)?;
        self.dataplane.set_service(id, service)?;
        self.dataplane.set_slots(id, &[backend_id])?;
        self.dataplane.set_listener(listener, id)?;
        Ok(())
    }

    /// A complete handshake for every flow, in ascending order.
    fn establish(&mut self, generator: &mut Generator) -> Result<()> {
        let steps: [(&Frames, ForwardReason); 6] = [
            (&SYN, ForwardReason::Forward),
            (&SYN_ACK, ForwardReason::Reply),
            (&FORWARD, ForwardReason::Forward),
            (&SYN_V6, ForwardReason::Forward),
            (&SYN_ACK_V6, ForwardReason::Reply),
            (&FORWARD_V6, ForwardReason::Forward),
        ];
        for (frames, reason) in steps {
            let program = self.program(programs::NATIVE)?;
            generator.aim(&program.fd, frames, self.flows, Order::Ascending)?;
            let before = self.verdicts()?;
            generator.run(self.flows)?;
            self.check_verdicts(&before, reason as u32, self.flows)?;
        }
        let connections = self.connections()?;
        ensure!(
            connections == 2 * u64::from(self.flows),
            "{connections} connections of {} flows of each family",
            self.flows
        );
        Ok(())
    }

    /// Makes sure that all packets since `before` was read, so many, were counted under one reason.
    ///
    /// # Errors
    ///
    /// When they were not, with what was counted instead.
    pub(crate) fn check_verdicts(&self, before: &[u64], reason: u32, packets: u32) -> Result<()> {
        let now = self.verdicts()?;
        let counted: BTreeMap<u32, u64> = (0..)
            .zip(now.iter().zip(before).map(|(now, before)| now - before))
            .filter(|(_, packets)| *packets != 0)
            .collect();
        let expected = BTreeMap::from([(reason, u64::from(packets))]);
        ensure!(
            counted == expected,
            "the program did not do what is measured: packets by number of their reason are {counted:?}, not {expected:?}"
        );
        Ok(())
    }
}
