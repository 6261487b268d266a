//! End to end: clients, routers, gateway and backends in network namespaces, ordinary sockets, offloads at their defaults.

mod demo;
mod forwarding;
mod scene;
