//! A loaded data plane with one service or more, and frames run through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use aya::{
    maps::{Array, Map, MapData},
    programs::Xdp,
};
use lb_common::{
    LAYOUT_VERSION,
    backend::{NextHop, Tags},
    maps::{self, programs},
    service::{Forwarding, Scheduler, Service},
    settings::{PortRange, Settings},
    verdict,
};
use lb_tests::{
    leftovers::Instance,
    names::{
        BACKEND_ROUTER_MAC, CLIENT, CLIENT_ROUTER_MAC, Family, GATEWAY_TO_BACKENDS_MAC, GATEWAY_TO_CLIENTS_MAC, VIP,
    },
    packet::{Packet, TcpFlags},
    program::{self, Action, Outcome, RunOptions},
};
use xlb::{
    dataplane::{
        BackendEntry, BackendId, ConnectionEntry, Dataplane as _, ListenerEntry, ServiceId, Tuple,
        aya::{AyaDataplane, Options, remove_all},
        pins::Pins,
    },
    model::{Listener, Ports, Protocol},
};

/// The interface on which test frames seem to come in, and to which the backends' next hop points: loopback.
pub(crate) const IFINDEX: u32 = 1;

/// What a listener of a test service listens on.
pub(crate) const PORT: u16 = 80;
/// What a backend of a test service listens on.
pub(crate) const BACKEND_PORT: u16 = 8080;

/// Every program on every attachment path that test frames can be run through.
pub(crate) const XDP_PROGRAMS: [&str; 3] = [programs::NATIVE, programs::NATIVE_VIRTUAL, programs::GENERIC];

/// A data plane of its own, removed when dropped.
pub(crate) struct Fixture {
    pub(crate) dataplane: AyaDataplane,
    pins: PathBuf,
    counted: BTreeMap<&'static str, u64>,
    program: &'static str,
    loaded: BTreeSet<&'static str>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok(Some(pins)) = Pins::open(&self.pins) {
            let _logged_by_nobody = remove_all(pins, &[]);
        }
    }
}

/// The settings of a fixture.
pub(crate) const fn settings() -> Settings {
    Settings {
        layout: LAYOUT_VERSION,
        hash_seed: 0,
        half_open_max: 1_000_000,
        snat_addresses_v4: 0,
        snat_addresses_v6: 0,
        port_prefixes: 0,
        snat_ports: PortRange {
            first: 1024,
            last: 65_535,
        },
        host_ports: PortRange::EMPTY,
    }
}

/// A backend behind the backend router.
pub(crate) fn backend_entry(service: ServiceId, address: IpAddr) -> BackendEntry {
    BackendEntry {
        service,
        address: SocketAddr::from((address, BACKEND_PORT)),
        alive: true,
        next_hop: NextHop::new(IFINDEX, BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC, Tags::NONE, 1500),
        source: Family::of(address).snat(),
        on_link: 0,
    }
}

impl Fixture {
    /// Room for plenty of connections, no service.
    pub(crate) fn new() -> Self {
        Self::with_capacity(50_000)
    }

    /// Room for this many connections.
    pub(crate) fn with_capacity(connections: u32) -> Self {
        lb_tests::topology::prepare().expect("a host for the laboratory");
        let pins = Instance::next().pins();
        let directory = Pins::create(&pins).expect("a pin directory");
        let options = Options {
            max_connections: connections,
            max_half_open: 0,
        };
        let dataplane = AyaDataplane::open(directory, options).expect("the maps load");
        // From here on the pins are removed, whatever fails.
        let mut fixture = Self {
            dataplane,
            pins,
            counted: BTreeMap::new(),
            program: programs::NATIVE,
            loaded: BTreeSet::new(),
        };
        fixture
            .dataplane
            .set_settings(settings())
            .expect("the settings are written");
        fixture
    }

    /// A service on the VIP of its backends' family and [`PORT`], TCP and UDP, with one slot for each backend.
    pub(crate) fn with_service(forwarding: Forwarding, backends: &[impl Into<IpAddr> + Copy]) -> Self {
        let mut fixture = Self::new();
        let backends: Vec<IpAddr> = backends.iter().map(|backend| (*backend).into()).collect();
        let vip = backends
            .first()
            .map_or(Family::V4, |backend| Family::of(*backend))
            .vip();
        fixture.add_service(ServiceId(1), vip, Scheduler::RoundRobin, forwarding, &backends);
        fixture
    }

    /// As [`with_service`](Self::with_service), with the first backend of a family.
    pub(crate) fn of_family(family: Family, forwarding: Forwarding) -> Self {
        Self::with_service(forwarding, &[family.backend(1)])
    }

    /// Lets frames run through another of [`XDP_PROGRAMS`].
    pub(crate) const fn use_program(&mut self, program: &'static str) {
        self.program = program;
    }

    /// Adds a service with one slot per backend. Backend ids are `10 * service + index`.
    pub(crate) fn add_service(
        &mut self,
        id: ServiceId,
        vip: impl Into<IpAddr>,
        scheduler: Scheduler,
        forwarding: Forwarding,
        backends: &[impl Into<IpAddr> + Copy],
    ) -> Vec<BackendId> {
        let vip = vip.into();
        let ids: Vec<BackendId> = (10 * id.0..).map(BackendId).take(backends.len()).collect();
        for (backend, address) in ids.iter().zip(backends) {
            self.set_backend(*backend, id, *address, true);
        }
        self.dataplane
            .set_service(id, Service::new(scheduler, forwarding))
            .expect("a service");
        self.dataplane.set_slots(id, &ids).expect("slots");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let listener = Listener {
                address: vip,
                ports: Ports::single(PORT),
                protocol,
            };
            self.listen(listener, id);
        }
        ids
    }

    /// Points what a listener listens for at a service.
    pub(crate) fn listen(&mut self, listener: Listener, id: ServiceId) {
        for entry in ListenerEntry::of(&listener) {
            self.dataplane.set_listener(entry, id).expect("a listener");
        }
    }

    /// Writes a backend behind the backend router.
    pub(crate) fn set_backend(&mut self, id: BackendId, service: ServiceId, address: impl Into<IpAddr>, alive: bool) {
        let entry = BackendEntry {
            alive,
            ..backend_entry(service, address.into())
        };
        self.dataplane.set_backend(id, &entry).expect("a backend");
    }

    /// Loads the program that frames run through, unless it was.
    pub(crate) fn load(&mut self) {
        if self.loaded.insert(self.program) {
            program::load(self.dataplane.ebpf_mut(), self.program).expect("the verifier takes the program");
        }
    }

    /// Runs a frame and takes the outcome as it is.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Outcome {
        self.load();
        let program: &Xdp = program::xdp(self.dataplane.ebpf_mut(), self.program).expect("the program");
        program::run(program, frame, RunOptions::default()).expect("the frame runs")
    }

    /// Runs a frame that must be forwarded; returns it as it leaves.
    #[track_caller]
    pub(crate) fn forwarded(&mut self, frame: &[u8]) -> Vec<u8> {
        let outcome = self.run(frame);
        assert_eq!(
            outcome.action,
            Action::Redirect,
            "the packet is forwarded; counters {:?}",
            self.counts()
        );
        outcome.frame
    }

    /// Runs a frame that must be left to the kernel, unmodified, under this reason and no other.
    #[track_caller]
    pub(crate) fn passed(&mut self, frame: &[u8], reason: &'static str) {
        self.counts();
        let outcome = self.run(frame);
        assert_eq!(
            outcome.action,
            Action::Pass,
            "the packet is passed; counters {:?}",
            self.counts()
        );
        assert_eq!(outcome.frame, frame, "a passed packet is unmodified");
        self.expect_counts(&[(reason, 1)]);
    }

    /// Runs a frame that must be dropped under this reason and no other.
    #[track_caller]
    pub(crate) fn dropped(&mut self, frame: &[u8], reason: &'static str) {
        self.counts();
        let outcome = self.run(frame);
        assert_eq!(
            outcome.action,
            Action::Drop,
            "the packet is dropped; counters {:?}",
            self.counts()
        );
        self.expect_counts(&[(reason, 1)]);
    }

    /// What was counted since this was last asked: verdicts by reason, and events.
    pub(crate) fn counts(&mut self) -> BTreeMap<&'static str, u64> {
        let now = self.dataplane.verdicts().expect("the counters");
        let names = verdict::outcomes().map(|outcome| (outcome.index, outcome.reason));
        let events = verdict::Event::ALL.iter().map(|event| (*event as u32, event.label()));
        let mut since = BTreeMap::new();
        for (index, name) in names.chain(events) {
            let before = self.counted.insert(name, now[index as usize]).unwrap_or(0);
            let difference = now[index as usize] - before;
            if difference != 0 {
                since.insert(name, difference);
            }
        }
        since
    }

    /// Asserts all counters since they were last looked at: these, and no other.
    #[track_caller]
    pub(crate) fn expect_counts(&mut self, expected: &[(&'static str, u64)]) {
        assert_eq!(
            self.counts(),
            expected.iter().copied().collect(),
            "counters since the last look"
        );
    }

    /// Every connection entry.
    pub(crate) fn connections(&self) -> Vec<ConnectionEntry> {
        let mut entries = Vec::new();
        self.dataplane
            .for_each_connection(&mut |entry| entries.push(entry))
            .expect("the connections");
        entries.sort_by_key(|entry| entry.key);
        entries
    }

    /// What the program counts as half-open connections.
    pub(crate) fn half_open(&self) -> i64 {
        let map = MapData::from_pin(self.pins.join(maps::HALF_OPEN)).expect("the map is pinned");
        let map: Array<_, u64> = Map::Array(map).try_into().expect("an array");
        map.get(&0, 0).expect("the number").cast_signed()
    }

    /// Removes the entry with this tuple.
    pub(crate) fn remove(&mut self, key: &Tuple) {
        self.dataplane.remove_connection(key).expect("the entry is removed");
    }
}

/// A client's packet on its way to the gateway.
pub(crate) const fn from_client(packet: Packet) -> Packet {
    packet.ethernet(CLIENT_ROUTER_MAC, GATEWAY_TO_CLIENTS_MAC)
}

/// The first packet of the usual connection: CLIENT:40000 to VIP:80.
pub(crate) fn syn() -> Packet {
    from_client(
        Packet::tcp()
            .from(CLIENT, 40_000)
            .to(VIP, PORT)
            .flags(TcpFlags::SYN)
            .ttl(63),
    )
}

/// The first packet of another client's, or another port's, connection.
pub(crate) fn syn_from(client: impl Into<IpAddr>, port: u16) -> Packet {
    syn().from(client, port)
}

/// As the gateway sends a packet on towards a backend: its addresses, one hop less to live.
pub(crate) fn to_backend(packet: Packet, backend: impl Into<IpAddr>, ttl: u8) -> Vec<u8> {
    packet
        .ethernet(GATEWAY_TO_BACKENDS_MAC, BACKEND_ROUTER_MAC)
        .to(backend, BACKEND_PORT)
        .ttl(ttl)
        .build()
}

/// A backend's packet on its way to the gateway.
pub(crate) fn from_backend(packet: Packet, backend: impl Into<IpAddr>) -> Packet {
    packet
        .ethernet(BACKEND_ROUTER_MAC, GATEWAY_TO_BACKENDS_MAC)
        .from(backend, BACKEND_PORT)
}

/// As the gateway sends a packet on towards a client.
pub(crate) fn to_client(packet: Packet, ttl: u8) -> Vec<u8> {
    packet
        .ethernet(GATEWAY_TO_CLIENTS_MAC, CLIENT_ROUTER_MAC)
        .from(VIP, PORT)
        .ttl(ttl)
        .build()
}
