//! The laboratory itself: the namespaces of [`crate::names`], wired up.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use crate::{
    leftovers::{BPF_FILE_SYSTEM, Instance, remove_leftovers},
    names,
    namespace::{Namespace, ip_batch},
    raw_program::{RawLink, RawProgram},
    wait::until,
};

/// Receive and transmit queues of every device, so that packets of one flow can be on two CPUs.
const QUEUES: u32 = 2;
/// Index of the first device; those below are for what a namespace has by itself.
const FIRST_INDEX: u32 = 100;
/// How long the devices may take to come up.
const UP_LIMIT: Duration = Duration::from_secs(10);

/// What a laboratory consists of.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// Number of clients, at least 1.
    pub clients: u8,
    /// Number of backends, at least 1.
    pub backends: u8,
    /// Whether [`names::VIP`] is an address of the gateway as well, so that its kernel answers what is passed to it.
    pub gateway_owns_vip: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            clients: 2,
            backends: 3,
            gateway_owns_vip: true,
        }
    }
}

/// Clients, routers, gateway and backends. All of it is removed when this is dropped, after a panic as well.
#[derive(Debug)]
pub struct Lab {
    /// The clients; the first is [`names::CLIENT`].
    pub clients: Vec<Namespace>,
    /// Between the clients and the gateway.
    pub client_router: Namespace,
    /// Where xlb runs, with the interfaces [`names::TO_CLIENTS`] and [`names::TO_BACKENDS`].
    pub gateway: Namespace,
    /// Between the gateway and the backends.
    pub backend_router: Namespace,
    /// The backends; the first is [`names::BACKEND_1`].
    pub backends: Vec<Namespace>,
    /// Keep the routers' ends able to receive what is redirected to them.
    _receivers: [RawLink; 2],
    // Last, so that it is dropped after the links.
    guard: Guard,
}

/// Removes the instance, from the first namespace on.
#[derive(Debug)]
struct Guard(Instance);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            eprintln!("laboratory {} is not wholly removed: {error:#}", self.0);
        }
    }
}

impl Lab {
    /// A laboratory with two clients and three backends.
    ///
    /// # Errors
    ///
    /// As of [`Lab::with`].
    pub fn start() -> Result<Self> {
        Self::with(LabOptions::default())
    }

    /// A laboratory as asked for. Removes what dead laboratories left and mounts the BPF file system where it is missing.
    ///
    /// # Errors
    ///
    /// Without root, without `ip`, or when the kernel lacks something; nothing is left then.
    pub fn with(options: LabOptions) -> Result<Self> {
        require_root()?;
        mount_bpf_file_system()?;
        remove_leftovers()?;

        let guard = Guard(Instance::next());
        let plan = Plan {
            instance: guard.0,
            options,
        };
        ip_batch(None, &plan.devices())?;
        let open = |role: &str| Namespace::open(&guard.0.namespace_name(role));
        let many = |role: &str, count: u8| -> Result<Vec<Namespace>> {
            (1..=count).map(|number| open(&format!("{role}{number}"))).collect()
        };
        let (clients, backends) = (many("client", options.clients)?, many("backend", options.backends)?);
        let (client_router, gateway, backend_router) =
            (open("clientrouter")?, open("gateway")?, open("backendrouter")?);

        for (number, client) in (1..).zip(&clients) {
            configure(client, &host(names::client(number), names::CLIENT_LAN_ROUTER))?;
        }
        for (number, backend) in (1..).zip(&backends) {
            configure(backend, &host(names::backend(number), names::BACKEND_LAN_ROUTER))?;
        }
        configure(&client_router, &client_router_lines(options.clients))?;
        configure(&gateway, &gateway_lines(options.gateway_owns_vip))?;
        configure(&backend_router, &backend_router_lines(options.backends))?;
        for router in [&client_router, &gateway, &backend_router] {
            router.sysctl("ipv4/ip_forward", "1")?;
            accept_any_way_back(router)?;
        }

        let pass = RawProgram::pass()?;
        let receivers = [
            attach_receiver(&pass, &client_router)?,
            attach_receiver(&pass, &backend_router)?,
        ];
        let lab = Self {
            clients,
            client_router,
            gateway,
            backend_router,
            backends,
            _receivers: receivers,
            guard,
        };
        lab.wait_up()?;
        Ok(lab)
    }

    /// Waits until every device passes packets: the kernel brings up in the background what `ip` has asked for.
    fn wait_up(&self) -> Result<()> {
        for namespace in self.namespaces() {
            until(&format!("devices of {} up", namespace.name()), UP_LIMIT, || {
                let links = namespace.ip("-brief link")?;
                let is_up = |line: &str| line.starts_with("lo ") || line.split_whitespace().nth(1) == Some("UP");
                Ok(links.lines().all(is_up).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The name that all of this laboratory starts with.
    pub const fn instance(&self) -> Instance {
        self.guard.0
    }

    /// The pin directory for a gateway of this laboratory.
    pub fn pins(&self) -> PathBuf {
        self.guard.0.pins()
    }

    /// All namespaces, for what holds everywhere.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let routers = [&self.client_router, &self.gateway, &self.backend_router];
        self.clients.iter().chain(routers).chain(&self.backends)
    }
}

/// What to build, as lines for `ip`.
struct Plan {
    instance: Instance,
    options: LabOptions,
}

impl Plan {
    /// Namespaces, devices, bridges: what one `ip` process can make from outside.
    fn devices(&self) -> Vec<String> {
        let roles =
            |role: &str, count: u8| -> Vec<String> { (1..=count).map(|number| format!("{role}{number}")).collect() };
        let (clients, backends) = (
            roles("client", self.options.clients),
            roles("backend", self.options.backends),
        );
        let routers = ["clientrouter", "gateway", "backendrouter"].map(str::to_owned);
        let all = clients.iter().chain(&routers).chain(&backends);

        let mut lines: Vec<String> = all.map(|role| format!("netns add {}", self.name(role))).collect();
        let mut indices = (FIRST_INDEX..).step_by(2);
        let mut link = |one, other| lines.extend(indices.next().map(|index| self.veth(index, one, other)));
        for client in &clients {
            link((client, "eth0", None), ("clientrouter", client, None));
        }
        for backend in &backends {
            link((backend, "eth0", None), ("backendrouter", backend, None));
        }
        link(
            ("clientrouter", "uplink", Some(names::CLIENT_ROUTER_MAC)),
            ("gateway", names::TO_CLIENTS, Some(names::GATEWAY_TO_CLIENTS_MAC)),
        );
        link(
            ("backendrouter", "uplink", Some(names::BACKEND_ROUTER_MAC)),
            ("gateway", names::TO_BACKENDS, Some(names::GATEWAY_TO_BACKENDS_MAC)),
        );
        lines
    }

    fn name(&self, role: &str) -> String {
        self.instance.namespace_name(role)
    }

    /// A pair of devices, each given by role, name and MAC address, with two indices that no other device of the laboratory has.
    ///
    /// The indices are given because the kernel would number from 2 in each namespace. It takes two ends with equal indices for
    /// one device of its own kind, and then waits up to a second before it lets packets through.
    fn veth(
        &self,
        indices: u32,
        one: (&str, &str, Option<names::Mac>),
        other: (&str, &str, Option<names::Mac>),
    ) -> String {
        let end = |index: u32, (role, device, mac): (&str, &str, Option<names::Mac>)| {
            let address = mac.map_or_else(String::new, |mac| format!("address {}", names::mac_text(mac)));
            let namespace = self.name(role);
            format!("{device} index {index} netns {namespace} {address} numrxqueues {QUEUES} numtxqueues {QUEUES}")
        };
        format!(
            "link add {} type veth peer name {}",
            end(indices, one),
            end(indices + 1, other)
        )
    }
}

/// Runs `ip` lines in a namespace whose devices exist. IPv6 is off, so that counters see nothing unasked for.
fn configure(namespace: &Namespace, lines: &[String]) -> Result<()> {
    if Path::new("/proc/sys/net/ipv6").exists() {
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    }
    ip_batch(Some(namespace), lines).with_context(|| format!("cannot configure {}", namespace.name()))
}

fn host(address: Ipv4Addr, router: Ipv4Addr) -> Vec<String> {
    vec![
        "link set lo up".to_owned(),
        format!("address add {address}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {router}"),
    ]
}

fn client_router_lines(clients: u8) -> Vec<String> {
    let mut lines = lan("client", clients, names::CLIENT_LAN_ROUTER);
    lines.extend([
        format!("address add {}/24 dev uplink", names::CLIENT_ROUTER),
        "link set uplink up".to_owned(),
        format!("route add 203.0.113.0/24 via {}", names::GATEWAY_TO_CLIENTS),
        format!("route add default via {}", names::GATEWAY_TO_CLIENTS),
    ]);
    lines
}

fn gateway_lines(owns_vip: bool) -> Vec<String> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("address add {}/24 dev {}", names::GATEWAY_TO_CLIENTS, names::TO_CLIENTS),
        format!(
            "address add {}/24 dev {}",
            names::GATEWAY_TO_BACKENDS,
            names::TO_BACKENDS
        ),
        format!("link set {} up", names::TO_CLIENTS),
        format!("link set {} up", names::TO_BACKENDS),
        format!("route add 10.1.0.0/24 via {}", names::CLIENT_ROUTER),
        format!("route add 10.4.0.0/24 via {}", names::BACKEND_ROUTER),
    ];
    if owns_vip {
        lines.push(format!("address add {}/32 dev lo", names::VIP));
    }
    lines
}

fn backend_router_lines(backends: u8) -> Vec<String> {
    let mut lines = lan("backend", backends, names::BACKEND_LAN_ROUTER);
    lines.extend([
        format!("address add {}/24 dev uplink", names::BACKEND_ROUTER),
        "link set uplink up".to_owned(),
        format!("route add default via {}", names::GATEWAY_TO_BACKENDS),
    ]);
    lines
}

/// A bridge over the devices that lead to a router's hosts, so that they share one network.
fn lan(role: &str, hosts: u8, address: Ipv4Addr) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned(), "link add lan type bridge".to_owned()];
    for number in 1..=hosts {
        lines.push(format!("link set {role}{number} master lan"));
        lines.push(format!("link set {role}{number} up"));
    }
    lines.push(format!("address add {address}/24 dev lan"));
    lines.push("link set lan up".to_owned());
    lines
}

/// Switches the reverse path filter off on every device; a new namespace may have inherited the host's setting.
fn accept_any_way_back(router: &Namespace) -> Result<()> {
    let written = router.run(|| -> io::Result<()> {
        for device in fs::read_dir("/proc/sys/net/ipv4/conf")? {
            fs::write(device?.path().join("rp_filter"), "0")?;
        }
        Ok(())
    })?;
    written.with_context(|| format!("cannot switch off the reverse path filter in {}", router.name()))
}

/// Makes a router's device towards the gateway receive what is redirected into its peer.
fn attach_receiver(program: &RawProgram, router: &Namespace) -> Result<RawLink> {
    let index = router.interface_index("uplink")?;
    router.run(|| program.attach(index))?
}

/// Makes sure of what every laboratory needs of the host: root, and a mounted BPF file system.
///
/// # Errors
///
/// What is missing, and how to get it.
pub fn prepare() -> Result<()> {
    require_root()?;
    mount_bpf_file_system()
}

fn require_root() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "network namespaces and BPF need root: use sudo, or cargo xtask, which does"
    );
    Ok(())
}

/// Mounts the BPF file system where it is missing, and says so.
fn mount_bpf_file_system() -> Result<()> {
    let is_mounted = || statfs(BPF_FILE_SYSTEM).map(|file_system| file_system.filesystem_type() == BPF_FS_MAGIC);
    let missing = || format!("{BPF_FILE_SYSTEM} does not exist: this kernel has no BPF file system");
    if is_mounted().with_context(missing)? {
        return Ok(());
    }
    // Two laboratories that start at once must not mount twice: the second mount would hide the pins of the first.
    let directory = fs::File::open(BPF_FILE_SYSTEM)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {BPF_FILE_SYSTEM}"))?;
    if !is_mounted()? {
        mount(
            Some("bpf"),
            BPF_FILE_SYSTEM,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount the BPF file system on {BPF_FILE_SYSTEM}"))?;
        eprintln!("mounted the BPF file system on {BPF_FILE_SYSTEM}, where it was missing");
    }
    Ok(())
}
