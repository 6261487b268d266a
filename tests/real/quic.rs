//! QUIC, the UDP that matters most: aioquic, client and server.

use std::{env, path::Path};

use lb_tests::topology::Lab;

use crate::{
    scene::{MATRIX, Scene, Service},
    server::{Server, client},
};

/// Port of the server.
const PORT: u16 = 4433;
/// Bytes that go up, and come back.
const LENGTH: usize = 1_000_000;

/// A Python that has aioquic: `cargo xtask test real` makes one.
fn python() -> String {
    env::var("XLB_PYTHON").expect("XLB_PYTHON names a Python with aioquic: cargo xtask test real makes one")
}

fn program() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("real/quic.py")
        .display()
        .to_string()
}

#[test]
fn quic_carries_bytes_both_ways() {
    for cell in MATRIX {
        let service = Service {
            port: PORT,
            backends: vec![(cell.family.backend(1), PORT).into()],
            health_check: "{type: none}",
        };
        let any = cell.family.unspecified().to_string();
        let serve = |lab: &Lab| {
            let log = lab.instance().directory()?.join("quic.log");
            let arguments = [&program(), "serve", &any, &PORT.to_string()];
            let mut server = Server::start(&lab.backends[0], &python(), &arguments, log)?;
            server.wait_for("ready")?;
            Ok(server)
        };
        let scene = Scene::start(cell, &service, serve);
        let mut ask = scene.lab.clients[0].command(python());
        ask.args([&program(), "ask", &cell.family.vip().to_string()]);
        let answer = client(ask.args([PORT.to_string(), LENGTH.to_string()]));
        let answer = answer.unwrap_or_else(|error| panic!("{cell}: {error:#}"));
        assert_eq!(answer, "same\n", "{cell}");
        scene.assert_nothing_went_wrong();
    }
}
