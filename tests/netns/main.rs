//! End to end: clients, routers, gateway and backends in network namespaces, ordinary sockets, offloads at their defaults.

mod failover;
mod forwarding;
mod limits;
mod pins;
mod race;
mod reload;
mod restart;
mod scene;
mod traceless;
