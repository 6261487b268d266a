//! The way to each backend: routes, links and neighbours as the kernel has them, kept fresh.
//!
//! [`run`] listens to the kernel's notifications and keeps what the ways are made of: the route to each address by asking the
//! kernel for it, links and neighbours as copies of its tables. It asks the kernel to resolve neighbours that are missing, and to
//! confirm those that went stale, because the XDP program sends past the kernel, which so never learns that they are in use.

#![forbid(unsafe_code)]

mod kernel;
mod table;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::StreamExt;
use lb_common::backend::NextHop;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{debug, warn};

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
    /// Interface and Ethernet addresses; [`NextHop::UNKNOWN`] while packets can't take the way.
    pub next_hop: NextHop,
    /// Largest IP packet that the way takes, in bytes; 0 without a route.
    pub mtu: u16,
    /// This host's own address on the way; unspecified (`0.0.0.0`) without a route.
    pub source: IpAddr,
}

impl Resolved {
    /// Nothing is known: the program asks the routing table.
    pub const fn unknown(ip: IpAddr) -> Self {
        Self {
            next_hop: NextHop::UNKNOWN,
            mtu: 0,
            source: match ip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            },
        }
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

/// Keeps `ways` up to date for the addresses in `targets`. Ends when nobody sets targets any more.
///
/// # Errors
/// When netlink fails. The ways published last stay, and another call starts anew.
pub async fn run(mut targets: watch::Receiver<BTreeSet<IpAddr>>, ways: watch::Sender<Ways>) -> Result<(), Error> {
    let (connection, handle, mut messages) = new_multicast_connection(&GROUPS).map_err(Error::Open)?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    let mut resolver = Resolver::new(Kernel::new(handle), ways);
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
    ways: watch::Sender<Ways>,
}

impl Resolver {
    fn new(kernel: Kernel, ways: watch::Sender<Ways>) -> Self {
        Self {
            kernel,
            targets: BTreeSet::new(),
            table: Table::default(),
            asked: HashSet::new(),
            ways,
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

    /// Looks up the route to every target.
    async fn resolve_routes(&mut self) -> Result<(), Error> {
        self.table.routes.clear();
        for target in &self.targets {
            let route = self.kernel.route(*target).await?;
            self.table.routes.insert(*target, route);
        }
        self.publish().await
    }

    /// Tells who waits, if anything changed, and asks for the neighbours that are missing.
    async fn publish(&mut self) -> Result<(), Error> {
        let ways = self.table.ways();
        for (target, way) in &ways {
            if let Some(reason) = &way.problem {
                debug!(%target, %reason, "no way to a backend");
            }
        }
        self.ways.send_if_modified(|published| {
            let changed = *published != ways;
            if changed {
                *published = ways;
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
