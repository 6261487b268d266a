//! The way to each backend, and what the program must know of this host: routes, links, addresses and neighbours as the kernel has
//! them, kept fresh.
//!
//! [`run`] listens to the kernel's notifications and keeps what the ways are made of: the route to each address by asking the
//! kernel for it, links, own addresses and neighbours as copies of its tables. It asks the kernel to resolve neighbours that are missing, and to
//! confirm those that went stale, because the XDP program sends past the kernel, which so never learns that they are in use.

#![forbid(unsafe_code)]

mod kernel;
mod link;
mod own;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::StreamExt;
use lb_common::{backend::NextHop, interface::Interface};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{debug, warn};

pub(crate) use self::own::OwnAddress;
use self::{
    kernel::Kernel,
    table::{Change, NeighbourKey, Table},
};

/// How often everything is read again, and stale neighbours are confirmed. Shorter than the kernel takes to forget one.
const REFRESH: Duration = Duration::from_secs(10);

/// Changes come in bursts: how long one is collected before it is acted upon.
const BURST: Duration = Duration::from_millis(50);

/// What the ways depend on.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// Where packets for one address go, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Interface, Ethernet addresses and VLAN tags, not known while packets can't take the way; and the largest IP packet that the
    /// way takes, 0 without a route.
    pub next_hop: NextHop,
    /// This host's own address on the way; unspecified (`0.0.0.0`) without a route, or without an address of that family.
    pub source: IpAddr,
    /// Prefix length of the network in which the address is reached without a gateway; 0 with one, or without a route.
    pub on_link: u8,
}

impl Resolved {
    /// Nothing is known: the program asks the routing table.
    pub const fn unknown(ip: IpAddr) -> Self {
        Self {
            next_hop: NextHop::UNKNOWN,
            source: unspecified(ip),
            on_link: 0,
        }
    }
}

/// The address that stands for none, in the family of `ip`.
const fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The way to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What is known of it. A route tells source and MTU even while its neighbour is silent.
    pub resolved: Resolved,
    /// Why packets can't take it; `None` when they can.
    pub problem: Option<Unresolved>,
}

impl Way {
    /// No way at all.
    pub const fn none(ip: IpAddr, problem: Unresolved) -> Self {
        Self {
            resolved: Resolved::unknown(ip),
            problem: Some(problem),
        }
    }
}

/// Why packets have no way to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The routing table has nothing for it, or says that it can't be reached.
    #[error("no route to {0}, add one")]
    NoRoute(IpAddr),
    /// It belongs to this host, where no packet leaves an interface.
    #[error("{0} is an address of this host, use a backend on another one")]
    Local(IpAddr),
    /// Nobody answered for the neighbour's address so far.
    #[error("neighbour {neighbour} on {interface} does not answer, check that it is up and in the same network")]
    NoNeighbour {
        /// The backend, or the gateway to it.
        neighbour: IpAddr,
        /// Name of the interface.
        interface: String,
    },
    /// The interface, such as a tunnel, has no Ethernet addresses.
    #[error("interface {0} does not carry Ethernet frames, route backends over one that does")]
    NotEthernet(String),
}

/// What is known of each address that was asked for. One that is missing was not looked at yet.
pub type Ways = HashMap<IpAddr, Way>;

/// What the program must know of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Every interface that carries Ethernet frames, by its index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Every address that the kernel owns.
    pub addresses: BTreeSet<IpAddr>,
}

/// Everything that is learned here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The ways that were asked for.
    pub ways: Ways,
    /// This host; `None` before it was looked at.
    pub host: Option<Host>,
}

/// Why the kernel can't be asked any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A table could not be read.
    #[error("cannot read the {what} from the kernel: {source}")]
    Read {
        /// `links` and the like.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The socket is gone.
    #[error("the netlink socket closed")]
    Closed,
}

/// Keeps `network` up to date, with the ways to the addresses in `targets`. Ends when nobody sets targets any more.
///
/// # Errors
/// When netlink fails. What was published last stays, and another call starts anew.
pub async fn run(mut targets: watch::Receiver<BTreeSet<IpAddr>>, network: watch::Sender<Network>) -> Result<(), Error> {
    let (connection, handle, mut messages) = new_multicast_connection(&GROUPS).map_err(Error::Open)?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    let mut resolver = Resolver::new(Kernel::new(handle), network);
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let change = tokio::select! {
            // The first tick comes at once.
            _ = refresh.tick() => Change::Everything,
            changed = targets.changed() => match changed {
                Ok(()) => Change::Routes,
                Err(_) => return Ok(()),
            },
            message = messages.next() => {
                let mut change = resolver.table.apply(message.ok_or(Error::Closed)?.0.payload);
                let deadline = Instant::now() + BURST;
                while let Ok(message) = timeout_at(deadline, messages.next()).await {
                    change = change.max(resolver.table.apply(message.ok_or(Error::Closed)?.0.payload));
                }
                change
            }
        };
        if change >= Change::Routes {
            resolver.targets.clone_from(&targets.borrow_and_update());
        }
        match change {
            Change::Nothing => {}
            Change::Neighbours => resolver.publish().await?,
            Change::Routes => resolver.resolve_routes().await?,
            Change::Everything => resolver.refresh().await?,
        }
    }
}

/// Ends a task with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The tables, the kernel they come from, and who waits for the result.
struct Resolver {
    kernel: Kernel,
    targets: BTreeSet<IpAddr>,
    table: Table,
    /// Neighbours that the kernel was asked to resolve since the last refresh: once is enough.
    asked: HashSet<NeighbourKey>,
    network: watch::Sender<Network>,
}

impl Resolver {
    fn new(kernel: Kernel, network: watch::Sender<Network>) -> Self {
        Self {
            kernel,
            targets: BTreeSet::new(),
            table: Table::default(),
            asked: HashSet::new(),
            network,
        }
    }

    /// Reads everything anew, and has neighbours confirmed. Also heals whatever a lost notification left behind.
    async fn refresh(&mut self) -> Result<(), Error> {
        self.table.links = self.kernel.links().await?;
        self.table.neighbours = self.kernel.neighbours().await?;
        self.asked.clear();
        self.resolve_routes().await?;
        for key in self.table.stale_neighbours() {
            self.ask_for(key).await?;
        }
        Ok(())
    }

    /// Looks up the route to every target, and the addresses that may be sources.
    async fn resolve_routes(&mut self) -> Result<(), Error> {
        self.table.own = self.kernel.own_addresses().await?;
        self.table.routes.clear();
        for target in &self.targets {
            let route = self.kernel.route(*target).await?;
            self.table.routes.insert(*target, route);
        }
        self.publish().await
    }

    /// Tells who waits, if anything changed, and asks for the neighbours that are missing.
    async fn publish(&mut self) -> Result<(), Error> {
        let network = Network {
            ways: self.table.ways(),
            host: Some(self.table.host()),
        };
        for (target, way) in &network.ways {
            if let Some(reason) = &way.problem {
                debug!(%target, %reason, "no way to a backend");
            }
        }
        self.network.send_if_modified(|published| {
            let changed = *published != network;
            if changed {
                *published = network;
            }
            changed
        });
        for key in self.table.missing_neighbours() {
            self.ask_for(key).await?;
        }
        Ok(())
    }

    async fn ask_for(&mut self, key: NeighbourKey) -> Result<(), Error> {
        if !self.asked.insert(key) {
            return Ok(());
        }
        match self.kernel.use_neighbour(key).await {
            Err(error @ Error::Closed) => Err(error),
            // The interface may have gone this moment; the next refresh knows.
            Err(error) => {
                warn!(neighbour = %key.address, ifindex = key.ifindex, %error, "cannot have a neighbour resolved");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
