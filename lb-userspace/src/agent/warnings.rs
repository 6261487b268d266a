//! What an operator should act upon though traffic flows: said once in the log, and in the status for as long as it lasts.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::service::Forwarding;

use crate::{
    dataplane::Family,
    model::{Model, Service},
    netlink::{Resolved, Ways},
};

/// At most one warning of exhausted ports in this time; as long the status shows it.
const PERIOD: Duration = Duration::from_secs(60);

/// Watches the count of new connections that got no source port.
#[derive(Debug, Default)]
pub(super) struct Exhaustion {
    /// As last seen; `None` before the first look, since what happened before this agent is not its news.
    total: Option<u64>,
    /// Drops that no warning told of.
    untold: u64,
    /// When the latest warning was due.
    warned: Option<Instant>,
    /// The latest warning.
    text: Option<String>,
}

impl Exhaustion {
    /// Takes note of the count now; the warning, if one is due.
    pub(super) fn record(&mut self, total: u64, now: Instant, model: &Model) -> Option<&str> {
        self.untold += total.saturating_sub(self.total.replace(total).unwrap_or(total));
        if self.warned.is_some_and(|warned| now.duration_since(warned) < PERIOD) {
            return None;
        }
        if self.untold == 0 {
            self.text = None;
            return None;
        }
        self.text = Some(ports_exhausted(std::mem::take(&mut self.untold), model));
        self.warned = Some(now);
        self.text()
    }

    /// The latest warning, while it is news.
    pub(super) fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

fn ports_exhausted(drops: u64, model: &Model) -> String {
    let ports = &model.snat.ports;
    format!(
        "{drops} packets of new connections were dropped because no source port was free ({}; ports {}-{}): add addresses to \
         snat.addresses, or widen snat.ports",
        pools(model),
        ports.start(),
        ports.end()
    )
}

/// Where translated sources of each IP family in use come from.
fn pools(model: &Model) -> String {
    let listeners = model.services.iter().flat_map(|service| &service.listeners);
    let families: BTreeSet<Family> = listeners.map(|listener| Family::of(listener.address)).collect();
    let pool = |family: &Family| {
        let addresses = model.snat.addresses.iter();
        let pool: Vec<String> = addresses
            .filter(|address| Family::of(**address) == *family)
            .map(ToString::to_string)
            .collect();
        let name = match family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        if pool.is_empty() {
            format!("{name}: this host's own address towards each backend")
        } else {
            format!("{name}: {}", pool.join(", "))
        }
    };
    families.iter().map(pool).collect::<Vec<_>>().join("; ")
}

/// Why `dsr` can't use a backend that there is a way to.
pub(super) const BEHIND_A_ROUTER: &str = "dsr needs the backend in a network of this host, and the way to it leads over a router; it \
     gets no connections until that changes: move it, or use another forwarding mode";

/// Whether a backend of this service gets no packets because a router is in between.
pub(super) fn is_behind_a_router(service: &Service, way: &Resolved) -> bool {
    // Without a route the source is not known either, and that is another problem.
    service.forwarding == Forwarding::Dsr && way.on_link == 0 && way.next_hop.mtu != 0
}

/// The backends of `dsr` services behind a router, with their services.
pub(super) fn behind_routers(model: &Model, ways: &Ways) -> BTreeSet<(Arc<str>, SocketAddr)> {
    let services = model.services.iter();
    let backends = services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend.address)));
    backends
        .filter(|(service, address)| {
            let way = ways.get(&address.ip());
            way.is_some_and(|way| is_behind_a_router(service, &way.resolved))
        })
        .map(|(service, address)| (Arc::clone(&service.name), address))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::backend::{NextHop, Tags};

    use super::*;
    use crate::{
        model::{Backend, Connections, Echo, Listener, Ports, Protocol, Scheduler, Snat, Timeouts, WhenAllDown},
        netlink::{Unresolved, Way},
    };

    fn model(forwarding: Forwarding) -> Model {
        let day = Duration::from_secs(86_400);
        Model {
            interfaces: Vec::new(),
            socket: "xlb.sock".into(),
            connections: Connections {
                max: 1,
                half_open_max: 1,
                timeouts: Timeouts {
                    tcp_half_open: day,
                    tcp_established: day,
                    tcp_closing: day,
                    udp: day,
                },
            },
            snat: Snat {
                addresses: vec!["192.0.2.10".parse().unwrap()],
                ports: 1024..=2047,
            },
            services: vec![Service {
                name: "web".into(),
                listeners: ["203.0.113.10", "2001:db8::10"]
                    .map(|address| Listener {
                        address: address.parse().unwrap(),
                        ports: Ports::single(80),
                        protocol: Protocol::Tcp,
                    })
                    .into(),
                forwarding,
                scheduler: Scheduler::Maglev,
                health_check: None,
                when_all_down: WhenAllDown::ForwardToAll,
                echo: Echo::Auto,
                backends: vec![Backend {
                    address: "10.0.0.11:80".parse().unwrap(),
                    weight: 1,
                }],
            }],
        }
    }

    #[test]
    fn exhausted_ports_are_told_of_once_a_minute_with_all_that_happened_since() {
        let model = model(Forwarding::FullNat);
        let mut exhaustion = Exhaustion::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(exhaustion.record(1000, at(0), &model), None, "an earlier agent's");
        let warning = exhaustion.record(1007, at(2), &model).unwrap();
        assert_eq!(
            warning,
            "7 packets of new connections were dropped because no source port was free (IPv4: 192.0.2.10; IPv6: this host's \
             own address towards each backend; ports 1024-2047): add addresses to snat.addresses, or widen snat.ports"
        );
        assert_eq!(exhaustion.record(1010, at(4), &model), None, "told a moment ago");
        assert!(exhaustion.text().is_some());
        assert_eq!(exhaustion.record(1015, at(61), &model), None);
        assert!(
            exhaustion
                .record(1015, at(62), &model)
                .unwrap()
                .starts_with("8 packets")
        );
        assert_eq!(exhaustion.record(1015, at(122), &model), None);
        assert_eq!(exhaustion.text(), None, "a minute without any");
    }

    #[test]
    fn backends_behind_a_router_are_named_for_dsr_alone() {
        let backend: IpAddr = "10.0.0.11".parse().unwrap();
        let way = |on_link| Way {
            resolved: Resolved {
                next_hop: NextHop::new(3, [0; 6], [0; 6], Tags::NONE, 1500),
                source: "10.0.0.1".parse().unwrap(),
                on_link,
            },
            problem: None,
        };
        let count = |forwarding, way| behind_routers(&model(forwarding), &Ways::from([(backend, way)])).len();
        assert_eq!(count(Forwarding::Dsr, way(0)), 1);
        assert_eq!(count(Forwarding::Dsr, way(24)), 0);
        assert_eq!(count(Forwarding::Nat, way(0)), 0);
        let unreachable = Way::none(backend, Unresolved::NoRoute(backend));
        assert_eq!(count(Forwarding::Dsr, unreachable), 0, "a problem of its own");
    }
}
