//! Ways to backends in a network namespace of their own, with the real kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use lb_common::{
    address::V4,
    backend::{Tag, Tags},
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use tokio::sync::watch;
use xlb::netlink::{self, Network, Unresolved, Way};

/// Long enough for any machine; a condition that is met ends the wait at once.
const PATIENCE: Duration = Duration::from_secs(60);

const ON_LINK: &str = "10.0.0.2";
const ROUTED: &str = "192.0.2.9";
const OWN: &str = "10.0.0.1";

/// Runs a command in the namespace of this thread.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// A process that does nothing but hold a namespace, and takes it along when it is dropped, also by a panic.
struct Peer(Child);

impl Peer {
    fn start() -> Self {
        // `cat` ends with its input, so it does not outlive a killed test either. It says when the namespace is there.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn run(&self, command: &str) {
        run(&format!("nsenter --net=/proc/{}/ns/net {command}", self.0.id()));
    }

    /// A veth pair: `near` here with `own`, `far` there with `address`; both up but the near end.
    fn connect(&self, near: &str, own: &str, far: &str, address: &str, mac: &str) {
        run(&format!(
            "ip link add {near} type veth peer name {far} address {mac} netns {}",
            self.0.id()
        ));
        run(&format!("ip address add {own}/24 dev {near}"));
        self.run(&format!("ip address add {address}/24 dev {far}"));
        self.run(&format!("ip link set {far} up"));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `test` in a namespace of its own, on a thread of its own, which takes the namespace with it.
fn in_namespace(test: impl AsyncFnOnce(Peer) + Send + 'static) {
    if !geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let outcome = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(Peer::start()));
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

struct Watcher {
    network: watch::Receiver<Network>,
    targets: watch::Sender<BTreeSet<IpAddr>>,
}

impl Watcher {
    fn start(targets: &[&str]) -> Self {
        let targets = watch::Sender::new(targets.iter().map(|target| target.parse().unwrap()).collect());
        let (sender, network) = watch::channel(Network::default());
        tokio::spawn(netlink::run(targets.subscribe(), sender));
        Self { network, targets }
    }

    /// Waits until the way to `target` is as `expected`.
    async fn until(&mut self, target: &str, expected: impl Fn(&Way) -> bool) {
        let target: IpAddr = target.parse().unwrap();
        let met = self
            .network
            .wait_for(|network| network.ways.get(&target).is_some_and(&expected));
        let outcome = tokio::time::timeout(PATIENCE, met).await.map(|met| met.is_ok());
        assert_eq!(
            outcome,
            Ok(true),
            "{target} is {:?}",
            self.network.borrow().ways.get(&target)
        );
    }

    async fn until_destination(&mut self, target: &str, mac: [u8; 6]) {
        self.until(target, |way| way.resolved.next_hop.destination == mac).await;
    }
}

fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

#[test]
fn ways_follow_links_neighbours_and_routes() {
    in_namespace(async |peer| {
        peer.connect("near0", OWN, "far0", ON_LINK, "02:00:00:00:00:02");
        run("ip link set near0 address 02:00:00:00:00:01");
        let mut watcher = Watcher::start(&[ON_LINK, ROUTED, OWN]);
        watcher
            .until(ON_LINK, |way| matches!(way.problem, Some(Unresolved::NoRoute(_))))
            .await;
        watcher
            .until(OWN, |way| matches!(way.problem, Some(Unresolved::Local(_))))
            .await;

        // The link comes up; the kernel is asked to resolve the neighbour, since nobody sends it a packet.
        run("ip link set near0 up");
        watcher.until_destination(ON_LINK, [2, 0, 0, 0, 0, 2]).await;
        let way = watcher.network.borrow().ways[&ON_LINK.parse::<IpAddr>().unwrap()].resolved;
        assert_eq!(way.next_hop.ifindex, ifindex("near0"));
        assert_eq!(way.next_hop.source, [2, 0, 0, 0, 0, 1]);
        assert_eq!((way.next_hop.mtu, way.source), (1500, OWN.parse().unwrap()));

        // The neighbour gets another network card and says so.
        peer.run("sysctl -qw net.ipv4.conf.far0.arp_notify=1");
        peer.run("ip link set far0 address 02:00:00:00:00:03");
        watcher.until_destination(ON_LINK, [2, 0, 0, 0, 0, 3]).await;

        // This host does.
        run("ip link set near0 address 02:00:00:00:00:04");
        watcher
            .until(ON_LINK, |way| way.resolved.next_hop.source == [2, 0, 0, 0, 0, 4])
            .await;

        // A route appears, then leads over another gateway, then over a smaller link, then disappears.
        watcher
            .until(ROUTED, |way| matches!(way.problem, Some(Unresolved::NoRoute(_))))
            .await;
        run("ip route add 192.0.2.0/24 via 10.0.0.2");
        watcher.until_destination(ROUTED, [2, 0, 0, 0, 0, 3]).await;
        peer.connect("near1", "10.0.1.1", "far1", "10.0.1.2", "02:00:00:00:01:02");
        run("ip link set near1 up");
        run("ip route replace 192.0.2.0/24 via 10.0.1.2");
        watcher.until_destination(ROUTED, [2, 0, 0, 0, 1, 2]).await;
        run("ip link set near1 mtu 1400");
        watcher
            .until(ROUTED, |way| way.problem.is_none() && way.resolved.next_hop.mtu == 1400)
            .await;
        run("ip link set near1 down");
        watcher
            .until(ROUTED, |way| matches!(way.problem, Some(Unresolved::NoRoute(_))))
            .await;
    });
}

#[test]
fn targets_can_change_and_silent_neighbours_are_named() {
    in_namespace(async |peer| {
        peer.connect("near0", OWN, "far0", ON_LINK, "02:00:00:00:00:02");
        run("ip link set near0 up");
        let mut watcher = Watcher::start(&[]);
        watcher
            .targets
            .send_replace(BTreeSet::from(["10.0.0.99".parse().unwrap()]));
        let silent = Unresolved::NoNeighbour {
            neighbour: "10.0.0.99".parse().unwrap(),
            interface: "near0".to_owned(),
        };
        watcher
            .until("10.0.0.99", |way| way.problem.as_ref() == Some(&silent))
            .await;
        let way = watcher.network.borrow().ways[&"10.0.0.99".parse::<IpAddr>().unwrap()].resolved;
        assert_eq!((way.next_hop.mtu, way.source), (1500, OWN.parse().unwrap()));
        // It answers at last.
        peer.run("ip address add 10.0.0.99/24 dev far0");
        watcher.until_destination("10.0.0.99", [2, 0, 0, 0, 0, 2]).await;
    });
}

#[test]
fn ipv6_ways_have_a_source_that_others_can_answer() {
    in_namespace(async |peer| {
        peer.connect("near0", OWN, "far0", ON_LINK, "02:00:00:00:00:02");
        // Without duplicate address detection, so that nothing has to be waited for.
        run("ip -6 address add 2001:db8:a::1/64 dev near0 nodad");
        peer.run("ip -6 address add 2001:db8:a::2/64 dev far0 nodad");
        run("ip link set near0 up");
        run("ip -6 route add 2001:db8:b::/48 via 2001:db8:a::2");
        let mut watcher = Watcher::start(&["2001:db8:a::2", "2001:db8:b::9"]);
        watcher.until_destination("2001:db8:a::2", [2, 0, 0, 0, 0, 2]).await;
        watcher.until_destination("2001:db8:b::9", [2, 0, 0, 0, 0, 2]).await;
        let network = watcher.network.borrow().clone();
        for (target, on_link) in [("2001:db8:a::2", 64), ("2001:db8:b::9", 0)] {
            let way = network.ways[&target.parse::<IpAddr>().unwrap()].resolved;
            assert_eq!(way.source, "2001:db8:a::1".parse::<IpAddr>().unwrap());
            assert_eq!((way.on_link, way.next_hop.mtu), (on_link, 1500), "{target}");
        }
    });
}

#[test]
fn network_of_a_backend_is_that_of_its_route() {
    in_namespace(async |peer| {
        peer.connect("near0", OWN, "far0", ON_LINK, "02:00:00:00:00:02");
        run("ip link set near0 up");
        // Another network on the same wire, of which this host has no address.
        run("ip route add 10.7.0.0/16 dev near0");
        let mut watcher = Watcher::start(&[ON_LINK, "10.7.1.2", ROUTED]);
        watcher.until(ON_LINK, |way| way.resolved.on_link == 24).await;
        watcher.until("10.7.1.2", |way| way.resolved.on_link == 16).await;
        run("ip route add 192.0.2.0/24 via 10.0.0.2");
        watcher
            .until(ROUTED, |way| {
                way.resolved.next_hop.is_known() && way.resolved.on_link == 0
            })
            .await;
        // A default route without a gateway makes everything on-link, though of no common network.
        run("ip route replace 192.0.2.0/24 dev near0");
        run("ip route del 192.0.2.0/24");
        run("ip route add default dev near0");
        watcher.until(ROUTED, |way| way.resolved.on_link == 32).await;
    });
}

#[test]
fn vlan_devices_are_tags_on_the_device_below() {
    in_namespace(async |peer| {
        peer.connect("near0", OWN, "far0", ON_LINK, "02:00:00:00:00:02");
        run("ip link set near0 up");
        let mut probe = Command::new("ip");
        probe.args([
            "link", "add", "link", "near0", "name", "probe", "type", "vlan", "id", "1",
        ]);
        if !probe.status().unwrap().success() {
            println!("skipped: this kernel has no VLAN devices");
            return;
        }
        for (device, parent, options) in [
            ("near0.100", "near0", "protocol 802.1ad id 100"),
            ("near0.200", "near0.100", "id 200"),
        ] {
            run(&format!("ip link add link {parent} name {device} type vlan {options}"));
            run(&format!("ip link set {device} up"));
            let (parent, device) = (parent.replace("near", "far"), device.replace("near", "far"));
            peer.run(&format!("ip link add link {parent} name {device} type vlan {options}"));
            peer.run(&format!("ip link set {device} up"));
        }
        let mut watcher = Watcher::start(&["10.2.0.2"]);
        run("ip link set near0.200 mtu 1400");
        run("ip address add 10.2.0.1/24 dev near0.200");
        peer.run("ip address add 10.2.0.2/24 dev far0.200");
        watcher.until_destination("10.2.0.2", [2, 0, 0, 0, 0, 2]).await;

        let tags = Tags {
            outer: Tag::service(100),
            inner: Tag::customer(200),
        };
        let network = watcher.network.borrow().clone();
        let next_hop = network.ways[&"10.2.0.2".parse::<IpAddr>().unwrap()].resolved.next_hop;
        assert_eq!((next_hop.ifindex, next_hop.tags), (ifindex("near0"), tags));
        assert_eq!(next_hop.mtu, 1400);
        let interface = network.host.unwrap().interfaces[&ifindex("near0.200")];
        assert_eq!((interface.target, interface.tags), (ifindex("near0"), tags));
        assert_eq!(interface.mtu, 1400);
        assert_eq!(interface.v4, V4::from(Ipv4Addr::new(10, 2, 0, 1)));
    });
}

#[test]
fn own_addresses_come_and_go() {
    in_namespace(async |_peer| {
        let mut watcher = Watcher::start(&[]);
        let vip: IpAddr = "203.0.113.10".parse().unwrap();
        for (verb, owned) in [("add", true), ("del", false)] {
            run(&format!("ip address {verb} {vip}/32 dev lo"));
            let met = watcher.network.wait_for(|network| {
                let host = network.host.as_ref();
                host.is_some_and(|host| host.addresses.contains(&vip) == owned)
            });
            let outcome = tokio::time::timeout(PATIENCE, met).await.map(|met| met.is_ok());
            assert_eq!(outcome, Ok(true), "{verb}");
        }
    });
}
