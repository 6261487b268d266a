//! Programs that nobody here wrote, through the VIP: nginx, curl, iperf3, aioquic, ping and traceroute, with bulk traffic and offloads at their defaults.
//!
//! Local sockets leave checksums and segmentation to the network card, so nearly every packet here is one that a load balancer can
//! spoil without noticing. What arrives is judged by those programs and by the kernels of all namespaces.

mod iperf3;
mod nginx;
mod quic;
mod reach;
mod scene;
mod server;
mod throughput;
mod web;
