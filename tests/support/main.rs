//! The command `lab`: the processes inside a laboratory, and a laboratory to look around in.

use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::{
    names,
    topology::{Lab, LabOptions},
    traffic::{backend::Backend, server::Server},
};
use tokio::{runtime, signal};

#[derive(Parser)]
#[command(about = "The laboratory of xlb: network namespaces with clients, a gateway and backends")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as a backend: answer a line (TCP) or datagram (UDP) holding a number with id, number and client address.
    Serve(Server),
    /// Build a laboratory with running backends, show its namespaces, and remove it on Ctrl-C.
    Up {
        /// Number of clients.
        #[arg(long, default_value_t = 2)]
        clients: u8,
        /// Number of backends.
        #[arg(long, default_value_t = 3)]
        backends: u8,
        /// IPv6 beside IPv4.
        #[arg(long)]
        ipv6: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve(server) => server.serve(),
        Command::Up {
            clients,
            backends,
            ipv6,
        } => {
            let lab = Lab::with(LabOptions {
                clients,
                backends,
                ipv6,
                ..LabOptions::default()
            })?;
            let _backends = Backend::start_all(&lab.backends)?;
            show(&lab);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(signal::ctrl_c())?)
        }
    }
}

fn show(lab: &Lab) {
    for namespace in lab.namespaces() {
        println!("nsenter --net=/run/netns/{}", namespace.name());
    }
    let vip = SocketAddr::from((names::VIP, 80));
    println!(
        "VIP for example {vip}; backends listen on port {}; Ctrl-C removes it all",
        lb_tests::traffic::backend::PORT
    );
}
