//! End to end: clients, routers, gateway and backends in network namespaces, ordinary sockets, offloads at their defaults.

mod demo;
mod failover;
mod forwarding;
mod limits;
mod pins;
mod privileges;
mod race;
mod reload;
mod restart;
mod scene;
mod sockets;
mod traceless;
