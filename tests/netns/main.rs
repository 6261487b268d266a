//! End to end: clients, routers, gateway and backends in network namespaces, ordinary sockets, offloads at their defaults.

mod datagrams;
mod demo;
mod dsr;
mod failover;
mod forwarding;
mod fragments;
mod hairpin;
mod icmp;
mod jumbo;
mod limits;
mod path_mtu;
mod pins;
mod ports;
mod privileges;
mod race;
mod reload;
mod restart;
mod scene;
mod sockets;
mod traceless;
