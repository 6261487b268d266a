//! The command `lab`: the processes inside a laboratory, and a laboratory to look around in.

use std::{io::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result};
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
    Serve {
        /// What to answer as.
        #[arg(long)]
        id: u32,
        /// TCP port.
        #[arg(long)]
        tcp: u16,
        /// UDP port.
        #[arg(long)]
        udp: u16,
        /// Port of the HTTP health endpoint: 200, or 503 between SIGUSR1 and SIGUSR2.
        #[arg(long)]
        http: u16,
    },
    /// Build a laboratory with running backends, show its namespaces, and remove it on Ctrl-C.
    Up {
        /// Number of clients.
        #[arg(long, default_value_t = 2)]
        clients: u8,
        /// Number of backends.
        #[arg(long, default_value_t = 3)]
        backends: u8,
    },
}

fn main() -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().command {
        Command::Serve { id, tcp, udp, http } => {
            let server = Server { id, tcp, udp, http };
            runtime
                .block_on(server.run(say_ready))
                .with_context(|| format!("backend {id}"))
        }
        Command::Up { clients, backends } => {
            let lab = Lab::with(LabOptions {
                clients,
                backends,
                ..LabOptions::default()
            })?;
            let _backends = Backend::start_all(&lab.backends)?;
            show(&lab);
            Ok(runtime.block_on(signal::ctrl_c())?)
        }
    }
}

fn say_ready() {
    println!("ready");
    // Whoever waits for the line is gone if this fails; the server need not care.
    let _ = std::io::stdout().flush();
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
