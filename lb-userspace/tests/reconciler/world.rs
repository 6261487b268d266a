//! What a script acts on: a configuration, an agent's store, and a data plane in memory.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lb_common::{
    address::{V4, V6},
    backend::{NextHop, Tags},
    connection::{Direction, Seen},
    interface::Interface,
    role::Roles,
    settings::PortRange,
};
use xlb::{
    dataplane::{
        BackendEntry, BackendId, ConnectionEntry, Dataplane, DataplaneError, Family, ListenerEntry, ServiceId, Tuple,
        fake::FakeDataplane, faulty::FaultyDataplane,
    },
    expiry,
    model::{
        Backend, Connections, Echo, Forwarding, HealthCheck, Listener, Model, Ports, Probe, Protocol, Scheduler,
        Service, Snat, Timeouts, WhenAllDown, store::Store,
    },
    netlink::{Host, Network, Resolved, Unresolved, Way, Ways},
    reconciler::{self, Desired},
};

const HOST_PORTS: PortRange = PortRange {
    first: 32_768,
    last: 60_999,
};

const CHECK: HealthCheck = HealthCheck {
    probe: Probe::Tcp,
    port: None,
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    rise: 2,
    fall: 3,
};

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) struct World {
    model: Model,
    store: Store,
    ways: Ways,
    host: Host,
    /// Whether the agent has looked at the host since it started.
    knows_host: bool,
    dataplane: FakeDataplane,
}

impl World {
    pub(crate) fn new() -> Self {
        let model = Model {
            interfaces: Vec::new(),
            socket: PathBuf::from("xlb.sock"),
            connections: Connections {
                max: 1_000,
                half_open_max: 100,
                timeouts: Timeouts {
                    tcp_half_open: DAY,
                    tcp_established: DAY,
                    tcp_closing: DAY,
                    udp: DAY,
                },
            },
            snat: Snat {
                addresses: Vec::new(),
                ports: 1024..=65_535,
            },
            services: Vec::new(),
        };
        Self {
            store: Store::new(Arc::new(model.clone())),
            model,
            ways: Ways::new(),
            host: Host::default(),
            knows_host: true,
            dataplane: FakeDataplane::new(),
        }
    }

    /// Executes one command; its output, whole lines.
    pub(crate) fn execute(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["reconcile"] => return self.reconcile(),
            ["release"] => return self.release(),
            ["dump"] => return self.dataplane.dump(),
            ["restart"] => self.restart(),
            ["pass" | "fail", service, backend, ref times @ ..] => {
                let times = times.first().map_or(1, |times| times.parse().unwrap());
                self.probe(words[0] == "pass", service, address(backend), times);
            }
            ["way", ip, ifindex, ref on_link @ ..] => {
                let ip: IpAddr = ip.parse().unwrap();
                let on_link = on_link.first().map_or(0, |prefix| prefix.parse().unwrap());
                self.ways.insert(ip, way(ip, ifindex.parse().unwrap(), on_link));
            }
            ["no-way", ip] => {
                let ip: IpAddr = ip.parse().unwrap();
                self.ways.insert(ip, Way::none(ip, Unresolved::NoRoute(ip)));
            }
            ["no-neighbour", ip] => {
                let ip: IpAddr = ip.parse().unwrap();
                self.ways.insert(ip, way_without_neighbour(ip));
            }
            ["forget-ways"] => self.ways.clear(),
            ["interface" | "no-interface" | "own" | "disown" | "look-around", ..] => self.change_host(&words),
            ["connect", client, backend] => self.connect(address(client), BackendId(backend.parse().unwrap())),
            ["disconnect", client] => self.disconnect(address(client)),
            ["retire", count] => self.retire(count.parse().unwrap()),
            _ => {
                self.edit(&words);
                self.store.replace_model(Arc::new(self.model.clone()));
            }
        }
        String::new()
    }

    /// Changes the host that the agent runs on, which it learns of.
    fn change_host(&mut self, words: &[&str]) {
        self.knows_host = true;
        match words {
            ["interface", index, addresses @ ..] => {
                let index = index.parse().unwrap();
                self.host.interfaces.insert(index, interface(index, addresses));
            }
            ["no-interface", index] => {
                self.host.interfaces.remove(&index.parse().unwrap());
            }
            ["own", address] => {
                self.host.addresses.insert(address.parse().unwrap());
            }
            ["disown", address] => {
                self.host.addresses.remove(&address.parse().unwrap());
            }
            ["look-around"] => {}
            _ => panic!("unknown command {words:?}"),
        }
    }

    /// Changes the configuration.
    fn edit(&mut self, words: &[&str]) {
        match words {
            ["service", name, at, options @ ..] => self.model.services.push(service(name, at, options)),
            ["backend", name, at, weight @ ..] => {
                let backend = Backend {
                    address: address(at),
                    weight: weight.first().map_or(1, |weight| weight.parse().unwrap()),
                };
                let backends = &mut self.service(name).backends;
                match backends.iter_mut().find(|known| known.address == backend.address) {
                    Some(known) => *known = backend,
                    None => backends.push(backend),
                }
            }
            ["listen", name, at] => self.service(name).listeners.push(listener(at)),
            ["unlisten", name, at] => self.service(name).listeners.retain(|known| *known != listener(at)),
            ["remove", name] => self.model.services.retain(|service| *service.name != **name),
            ["remove", name, at] => self
                .service(name)
                .backends
                .retain(|backend| backend.address != address(at)),
            ["rename", name, new] => self.service(name).name = (*new).into(),
            ["snat", addresses @ ..] => {
                self.model.snat.addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            }
            _ => panic!("unknown command {words:?}"),
        }
    }

    fn service(&mut self, name: &str) -> &mut Service {
        let mut services = self.model.services.iter_mut();
        services
            .find(|service| *service.name == *name)
            .unwrap_or_else(|| panic!("no service {name}"))
    }

    fn probe(&self, passed: bool, service: &str, backend: SocketAddr, times: usize) {
        for _ in 0..times {
            let outcome = if passed {
                Ok(())
            } else {
                Err("connection refused".to_owned())
            };
            self.store.record(service, backend, &CHECK, outcome);
        }
    }

    fn restart(&mut self) {
        self.store = Store::new(Arc::new(self.model.clone()));
        self.ways.clear();
        self.knows_host = false;
        for (service, backend, status) in reconciler::adoptable(&self.dataplane, &self.model).unwrap() {
            self.store.adopt(&service, backend, status);
        }
    }

    fn desired(&self) -> Desired {
        let network = Network {
            ways: self.ways.clone(),
            host: self.knows_host.then(|| self.host.clone()),
        };
        Desired::new(&self.store.state(), &network, HOST_PORTS)
    }

    fn reconcile(&mut self) -> String {
        let desired = self.desired();
        self.dataplane.take_log();
        let before = self.dataplane.clone();
        let outcome = reconciler::reconcile(&mut self.dataplane, &desired);
        let log = self.dataplane.take_log();
        check_rules(&self.dataplane);
        let Ok(report) = outcome else {
            return error_line(&outcome.unwrap_err());
        };
        assert_eq!(report.writes, log.len(), "the report counts every write");
        let again = reconciler::reconcile(&mut self.dataplane, &desired).unwrap();
        assert_eq!(again.writes, 0, "a second time there is nothing to do");
        survive_faults(&before, &desired, &self.dataplane, log.len());
        lines(&log)
    }

    fn release(&mut self) -> String {
        let desired = self.desired();
        let sweep = expiry::sweep(&mut self.dataplane, &self.model.connections.timeouts, 0).unwrap();
        self.dataplane.take_log();
        let released = reconciler::release(&mut self.dataplane, &desired, &sweep.unreferenced).unwrap();
        let log = self.dataplane.take_log();
        assert_eq!(released, log.len());
        check_rules(&self.dataplane);
        if log.len() > 10 {
            return format!("{} and {} more\n", log[0], log.len() - 1);
        }
        lines(&log)
    }

    /// Puts both entries of a connection into the table, as the program would.
    fn connect(&mut self, client: SocketAddr, backend: BackendId) {
        let backends: HashMap<_, _> = self.dataplane.backends().unwrap().into_iter().collect();
        let entry = backends[&backend];
        let forward = Tuple {
            protocol: Protocol::Tcp,
            source: client,
            destination: address(if client.is_ipv4() {
                "203.0.113.10:80"
            } else {
                "[2001:db8::10]:80"
            }),
        };
        let reply = Tuple {
            protocol: Protocol::Tcp,
            source: entry.address,
            destination: client,
        };
        for (key, twin, direction) in [(forward, reply, Direction::Forward), (reply, forward, Direction::Reply)] {
            self.dataplane.insert_connection(ConnectionEntry {
                key,
                twin,
                direction,
                seen: Seen(Seen::SYN | Seen::ACK),
                last_seen: 0,
                service: entry.service,
                backend,
            });
        }
    }

    fn disconnect(&mut self, client: SocketAddr) {
        let keys: Vec<Tuple> = self
            .dataplane
            .connections()
            .filter(|entry| entry.key.source == client || entry.key.destination == client)
            .map(|entry| entry.key)
            .collect();
        assert_eq!(keys.len(), 2, "both entries of the connection");
        for key in keys {
            self.dataplane.remove_connection(&key).unwrap();
        }
    }

    fn retire(&mut self, count: u32) {
        let taken = self.dataplane.backends().unwrap().len();
        for number in 1..=count {
            let id = BackendId(u32::try_from(taken).unwrap() + number);
            let address = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a01_0000 + number), 80));
            let entry = BackendEntry {
                service: ServiceId(9),
                address,
                alive: false,
                next_hop: NextHop::UNKNOWN,
                source: [0, 0, 0, 0].into(),
                on_link: 0,
            };
            self.dataplane.set_backend(id, &entry).unwrap();
        }
    }
}

/// Fails each of the `writes` of a reconciliation once, then every write with a probability, and expects the rules to hold on what
/// is left behind and later attempts to reach `after`.
fn survive_faults(before: &FakeDataplane, desired: &Desired, after: &FakeDataplane, writes: usize) {
    let expected = after.dump();
    let check = |left: &FakeDataplane| {
        check_rules(left);
        check_leads(before, desired, left, after);
    };
    for n in 1..=writes {
        let mut faulty = FaultyDataplane::failing_nth(before.clone(), n);
        reconciler::reconcile(&mut faulty, desired).expect_err("a write failed");
        check(faulty.inner());
        let mut left = faulty.into_inner();
        reconciler::reconcile(&mut left, desired).unwrap();
        check_rules(&left);
        assert_eq!(left.dump(), expected, "after write {n} failed");
    }
    for seed in 0..20 {
        let mut faulty = FaultyDataplane::failing_randomly(before.clone(), 0.5, seed);
        while reconciler::reconcile(&mut faulty, desired).is_err() {
            check(faulty.inner());
        }
        assert_eq!(faulty.inner().dump(), expected, "with random faults, seed {seed}");
    }
}

/// What must hold whenever a packet may look.
fn check_rules(dataplane: &FakeDataplane) {
    let services: HashMap<_, _> = dataplane.services().unwrap().into_iter().collect();
    let backends: HashMap<_, _> = dataplane.backends().unwrap().into_iter().collect();
    let roles: HashMap<_, _> = dataplane.roles().unwrap().into_iter().collect();
    let has_role = |address: IpAddr, role| roles.get(&address).is_some_and(|roles| roles.any(role));
    for (listener, service) in dataplane.listeners().unwrap() {
        assert!(
            services.contains_key(&service),
            "{listener} points at service {service:?} without a record"
        );
        assert!(has_role(listener.address, Roles::VIP), "{listener} is on no VIP");
    }
    for service in services.keys() {
        for id in dataplane.slots(*service).unwrap() {
            let backend = backends
                .get(&id)
                .unwrap_or_else(|| panic!("a slot names {id:?}, which is not set"));
            assert_eq!(backend.service, *service, "a slot names {id:?} of another service");
            assert!(has_role(backend.address.ip(), Roles::BACKEND), "{id:?} has no role");
        }
    }
    if let Some(settings) = dataplane.settings().unwrap() {
        for (family, counted) in [
            (Family::V4, settings.snat_addresses_v4),
            (Family::V6, settings.snat_addresses_v6),
        ] {
            assert!(counted as usize <= dataplane.snat_addresses(family).unwrap().len());
        }
    }
}

/// While one state turns into another, every port leads to backends that it has in one of them, never to those of another service;
/// and a port that stays with its service leads there all the time.
fn check_leads(before: &FakeDataplane, desired: &Desired, now: &FakeDataplane, after: &FakeDataplane) {
    for port in telling_ports(&[before, now, after]) {
        let known: BTreeSet<SocketAddr> = (desired.services.iter())
            .filter(|service| service.listeners.iter().any(|entry| contains(entry, port)))
            .flat_map(|service| service.backends.iter().map(|backend| backend.address))
            .chain(addresses(before, lookup(before, port)))
            .collect();
        for address in addresses(now, lookup(now, port)) {
            assert!(
                known.contains(&address),
                "{port:?} leads to {address}, a backend of another service"
            );
        }
        let old = lookup(before, port);
        if old == lookup(after, port) {
            assert_eq!(lookup(now, port), old, "{port:?} stays where it leads");
        }
    }
}

/// A port of a VIP.
type Dialled = (IpAddr, Protocol, u16);

/// The ports at which any of the data planes may change its mind: the first and last of every entry, and their neighbours.
fn telling_ports(dataplanes: &[&FakeDataplane]) -> BTreeSet<Dialled> {
    let mut ports = BTreeSet::new();
    for dataplane in dataplanes {
        for (entry, _) in dataplane.listeners().unwrap() {
            for port in [
                entry.port.saturating_sub(1),
                entry.port,
                entry.last(),
                entry.last().saturating_add(1),
            ] {
                ports.insert((entry.address, entry.protocol, port));
            }
        }
    }
    ports
}

fn contains(entry: &ListenerEntry, (address, protocol, port): Dialled) -> bool {
    (entry.address, entry.protocol) == (address, protocol) && (entry.port..=entry.last()).contains(&port)
}

/// The service that the program would find: by the smallest block, and by ranges only if they are counted.
fn lookup(dataplane: &FakeDataplane, port: Dialled) -> Option<ServiceId> {
    let ranges = dataplane
        .settings()
        .unwrap()
        .is_some_and(|settings| settings.port_prefixes > 0);
    let entries = dataplane.listeners().unwrap().into_iter();
    entries
        .filter(|(entry, _)| contains(entry, port) && (ranges || !entry.is_range()))
        .max_by_key(|(entry, _)| entry.bits)
        .map(|(_, service)| service)
}

/// The backends of a service that new connections go to.
fn addresses(dataplane: &FakeDataplane, service: Option<ServiceId>) -> Vec<SocketAddr> {
    let backends: HashMap<_, _> = dataplane.backends().unwrap().into_iter().collect();
    let slots = service.map(|id| dataplane.slots(id).unwrap()).unwrap_or_default();
    slots.iter().map(|id| backends[id].address).collect()
}

fn lines(log: &[String]) -> String {
    let mut text = String::new();
    for line in log {
        writeln!(text, "{line}").unwrap();
    }
    text
}

fn error_line(error: &DataplaneError) -> String {
    format!("error: {error}\n")
}

fn service(name: &str, at: &str, options: &[&str]) -> Service {
    let mut service = Service {
        name: name.into(),
        listeners: vec![listener(at)],
        forwarding: Forwarding::Nat,
        scheduler: Scheduler::RoundRobin,
        health_check: None,
        when_all_down: WhenAllDown::ForwardToAll,
        echo: Echo::Auto,
        backends: Vec::new(),
    };
    for option in options {
        match *option {
            "round_robin" => service.scheduler = Scheduler::RoundRobin,
            "random" => service.scheduler = Scheduler::Random,
            "source_hash" => service.scheduler = Scheduler::SourceHash,
            "maglev" => service.scheduler = Scheduler::Maglev,
            "full_nat" => service.forwarding = Forwarding::FullNat,
            "dsr" => service.forwarding = Forwarding::Dsr,
            "echo_on" => service.echo = Echo::On,
            "echo_off" => service.echo = Echo::Off,
            "check" => service.health_check = Some(CHECK),
            "drop" => service.when_all_down = WhenAllDown::Drop,
            _ => panic!("unknown option {option} of service {name}"),
        }
    }
    service
}

fn listener(at: &str) -> Listener {
    let (protocol, at) = at.split_once('/').unwrap();
    let (address, ports) = at.rsplit_once(':').unwrap();
    Listener {
        address: address.trim_matches(['[', ']']).parse().unwrap(),
        ports: self::ports(ports),
        protocol: match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => panic!("unknown protocol {protocol}"),
        },
    }
}

/// `80`, `8000-8099`, or `*`.
fn ports(text: &str) -> Ports {
    if text == "*" {
        return Ports::ANY;
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ports {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
    }
}

/// An address with a port, or without one: the port that clients dial.
fn address(text: &str) -> SocketAddr {
    let without_port = || text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 0));
    text.parse()
        .or_else(|_| without_port())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn interface(index: u32, addresses: &[&str]) -> Interface {
    let mut interface = Interface {
        target: index,
        mtu: 1500,
        ..Interface::default()
    };
    for address in addresses {
        match address.parse().unwrap() {
            IpAddr::V4(address) => interface.v4 = V4::from(address),
            IpAddr::V6(address) => interface.v6 = V6::from(address),
        }
    }
    interface
}

fn way(ip: IpAddr, ifindex: u32, on_link: u8) -> Way {
    Way {
        resolved: Resolved {
            next_hop: NextHop::new(ifindex, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], Tags::NONE, 1500),
            source: match ip {
                IpAddr::V4(_) => [10, 0, 0, 1].into(),
                IpAddr::V6(_) => [0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1].into(),
            },
            on_link,
        },
        problem: None,
    }
}

fn way_without_neighbour(ip: IpAddr) -> Way {
    let mut way = way(ip, 0, 0);
    way.resolved.next_hop = NextHop::new(0, [0; 6], [0; 6], Tags::NONE, 1500);
    way.problem = Some(Unresolved::NoNeighbour {
        neighbour: ip,
        interface: "eth1".to_owned(),
    });
    way
}
