//! The laboratory itself: the namespaces of [`crate::names`], wired up.

mod plan;

use std::{
    fs, io,
    net::IpAddr,
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

use self::plan::{Plan, own_address_line};
use crate::{
    leftovers::{BPF_FILE_SYSTEM, Instance, remove_leftovers},
    names::Family,
    namespace::{Namespace, ip_batch},
    raw_program::{RawLink, RawProgram},
    wait::until,
};

/// How long the devices may take to come up.
const UP_LIMIT: Duration = Duration::from_secs(10);

/// How gateway and backends are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// By way of the backend router. There is no other way between clients and backends.
    Routed,
    /// The gateway is on the backends' network, at [`crate::names::GATEWAY_ON_LAN`], and is their default router. A host more than a
    /// service has backends serves as a client in the backends' own network.
    OnLink,
    /// The gateway is on the backends' network, but their default router is the backend router, which has a link of its own to the
    /// client router: what backends answer does not pass the gateway, as `dsr` wants it.
    DirectReturn,
}

/// What a laboratory consists of.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// Number of clients, at least 1.
    pub clients: u8,
    /// Number of backends, at least 1.
    pub backends: u8,
    /// Whether there is IPv6 beside IPv4. Without it is off in every namespace, so that counters see nothing unasked for: with it
    /// kernels find neighbours by ICMPv6, and report the multicast groups they are in.
    pub ipv6: bool,
    /// How gateway and backends are connected.
    pub wiring: Wiring,
    /// MTU of every link, in bytes: 1500, or 9000 for jumbo frames.
    pub mtu: u16,
    /// Whether the VIP is an address of the gateway as well, so that its kernel answers what is passed to it.
    pub gateway_owns_vip: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            clients: 2,
            backends: 3,
            gateway_owns_vip: true,
            ipv6: false,
            wiring: Wiring::Routed,
            mtu: 1500,
        }
    }
}

/// Clients, routers, gateway and backends. All of it is removed when this is dropped, after a panic as well.
#[derive(Debug)]
pub struct Lab {
    /// The clients; the first is [`crate::names::CLIENT`].
    pub clients: Vec<Namespace>,
    /// Between the clients and the gateway.
    pub client_router: Namespace,
    /// Where xlb runs, with the interfaces [`crate::names::TO_CLIENTS`] and [`crate::names::TO_BACKENDS`].
    pub gateway: Namespace,
    /// Between the gateway and the backends.
    pub backend_router: Namespace,
    /// The backends; the first is [`crate::names::BACKEND_1`].
    pub backends: Vec<Namespace>,
    ipv6: bool,
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

        let configure = |namespace: &Namespace, lines: &[String]| configure(namespace, options.ipv6, lines);
        for (number, client) in (1..).zip(&clients) {
            configure(client, &plan.client(number))?;
        }
        for (number, backend) in (1..).zip(&backends) {
            configure(backend, &plan.backend(number))?;
        }
        configure(&client_router, &plan.client_router())?;
        configure(&gateway, &plan.gateway())?;
        configure(&backend_router, &plan.backend_router())?;
        for router in [&client_router, &gateway, &backend_router] {
            make_router(router, options.ipv6)?;
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
            ipv6: options.ipv6,
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
                // A device gives itself an address as well, and looks after that in the background too.
                let usable = !self.ipv6 || namespace.ip("-6 address show tentative")?.is_empty();
                Ok((usable && links.lines().all(is_up)).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Makes the client's link narrow: neither its end nor the router sends longer packets into it. The routers' bridge takes on the
    /// MTU of its narrowest port, so the router says "too big" for the whole network of clients.
    ///
    /// As if the narrow link were in the middle of the path, the client still tells its peers to send TCP segments for a whole
    /// Ethernet frame.
    ///
    /// # Errors
    ///
    /// When there is no such client, or IPv6 does not allow this MTU (less than 1280).
    pub fn narrow_client_link(&self, number: u8, mtu: u32) -> Result<()> {
        let client = nth(&self.clients, number)?;
        self.narrow(client, (&self.client_router, &format!("client{number}")), mtu)
    }

    /// As [`Lab::narrow_client_link`], for a backend.
    ///
    /// # Errors
    ///
    /// As of [`Lab::narrow_client_link`].
    pub fn narrow_backend_link(&self, number: u8, mtu: u32) -> Result<()> {
        let backend = nth(&self.backends, number)?;
        self.narrow(backend, (&self.backend_router, &format!("backend{number}")), mtu)
    }

    fn narrow(&self, host: &Namespace, (router, port): (&Namespace, &str), mtu: u32) -> Result<()> {
        let families: &[Family] = if self.ipv6 { &Family::ALL } else { &[Family::V4] };
        for family in families {
            let flag = if *family == Family::V6 { "-6" } else { "-4" };
            let route = host.ip(&format!("{flag} route show default"))?;
            host.ip(&format!(
                "{flag} route change {} advmss {}",
                route.trim(),
                family.ethernet_segment()
            ))?;
        }
        host.ip(&format!("link set eth0 mtu {mtu}"))?;
        router.ip(&format!("link set {port} mtu {mtu}"))?;
        Ok(())
    }

    /// Gives every backend this address on its loopback without telling anybody on its network, as `dsr` wants it.
    ///
    /// # Errors
    ///
    /// When an address is there already, or of a family that is off.
    pub fn give_to_backends(&self, address: IpAddr) -> Result<()> {
        for backend in &self.backends {
            // It answers ARP for the addresses of the device asked alone, and never names the VIP when it asks itself. In IPv6 it is so
            // by nature.
            backend.sysctl("ipv4/conf/all/arp_ignore", "1")?;
            backend.sysctl("ipv4/conf/all/arp_announce", "2")?;
            backend.ip(&own_address_line(address))?;
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

/// The host with this number, from 1.
fn nth(hosts: &[Namespace], number: u8) -> Result<&Namespace> {
    let host = usize::from(number).checked_sub(1).and_then(|index| hosts.get(index));
    host.with_context(|| format!("no host {number}: there are {}", hosts.len()))
}

/// Runs `ip` lines in a namespace whose devices exist.
fn configure(namespace: &Namespace, ipv6: bool, lines: &[String]) -> Result<()> {
    if ipv6 {
        // Addresses are usable at once, and nobody's advertisements add others.
        for (parameter, value) in [
            ("disable_ipv6", "0"),
            ("accept_dad", "0"),
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("router_solicitations", "0"),
            ("accept_redirects", "0"),
        ] {
            on_every_device(namespace, "ipv6/conf", parameter, value)?;
        }
    } else if Path::new("/proc/sys/net/ipv6").exists() {
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    }
    ip_batch(Some(namespace), lines).with_context(|| format!("cannot configure {}", namespace.name()))
}

/// Makes a namespace forward, whatever way packets come, and without advice on shorter ones; a new namespace may have inherited
/// the host's settings.
fn make_router(router: &Namespace, ipv6: bool) -> Result<()> {
    router.sysctl("ipv4/ip_forward", "1")?;
    on_every_device(router, "ipv4/conf", "rp_filter", "0")?;
    on_every_device(router, "ipv4/conf", "send_redirects", "0")?;
    if ipv6 {
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Sets a kernel parameter of every device in a namespace, and of those to come.
fn on_every_device(namespace: &Namespace, directory: &str, parameter: &str, value: &str) -> Result<()> {
    let directory = Path::new("/proc/sys/net").join(directory);
    let written = namespace.run(|| -> io::Result<()> {
        for device in fs::read_dir(&directory)? {
            fs::write(device?.path().join(parameter), value)?;
        }
        Ok(())
    })?;
    written.with_context(|| format!("cannot set {parameter} to {value} in {}", namespace.name()))
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
