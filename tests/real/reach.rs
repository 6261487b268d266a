//! What an operator asks first: ping and traceroute to the VIP.

use std::net::IpAddr;

use anyhow::Context as _;
use lb_tests::names::Family;

use crate::{
    nginx::Nginx,
    scene::{Cell, MATRIX, Scene},
    server::client,
    web::{directory, start},
};

/// The option of both programs for a family.
const fn family_option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

#[test]
fn ping_is_answered_and_traceroute_shows_the_gateway_and_arrives() {
    let files = directory().expect("a directory");
    for cell in MATRIX {
        let scene = start(cell, files.path());
        let answer = ping(cell, &scene);
        assert!(answer.contains(" 0% packet loss"), "{cell}: {answer}");
        let hops = traceroute(cell, &scene);
        let family = cell.family;
        let expected = [family.client_lan_router(), family.gateway_to_clients(), family.vip()];
        assert_eq!(hops[..3.min(hops.len())], expected, "{cell}: {hops:?}");
        assert!(hops[2..].iter().all(|hop| *hop == family.vip()), "{cell}: {hops:?}");
    }
}

fn ping(cell: Cell, scene: &Scene<Vec<Nginx>>) -> String {
    let mut command = scene.lab.clients[0].command("ping");
    command.args([
        family_option(cell.family),
        "-n",
        "-c",
        "3",
        "-i",
        "0.2",
        "-W",
        "5",
        "-s",
        "1000",
    ]);
    let answer = client(command.arg(cell.family.vip().to_string()));
    answer.with_context(|| cell.to_string()).expect("an answer")
}

/// The hops that SYNs to the service find, one probe each.
fn traceroute(cell: Cell, scene: &Scene<Vec<Nginx>>) -> Vec<IpAddr> {
    let mut command = scene.lab.clients[0].command("traceroute");
    command.args([
        family_option(cell.family),
        "-T",
        "-p",
        "80",
        "-n",
        "-q",
        "1",
        "-w",
        "5",
        "-m",
        "10",
    ]);
    let text = client(command.arg(cell.family.vip().to_string()));
    let text = text.with_context(|| cell.to_string()).expect("hops");
    // A line with what is asked for, then `1  10.1.0.1  0.123 ms` each.
    let hop = |line: &str| line.split_whitespace().nth(1)?.parse().ok();
    text.lines()
        .skip(1)
        .map(|line| hop(line).with_context(|| format!("{cell}: {text}")).expect("a hop"))
        .collect()
}
