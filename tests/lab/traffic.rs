//! Clients and backends, through routers and a gateway without xlb.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_tests::{
    counters::Counters,
    gateway::Gateway,
    names::{self, BACKEND_1, CLIENT, Family},
    topology::{Lab, LabOptions},
    traffic::{
        Protocol,
        backend::{Backend, HEALTH_PORT, PORT},
        client::{Client, SteadyRequests},
        long_flows::{LongFlows, Problem},
        race::race_first_packets,
    },
    wait::until,
};

/// How long anything awaited here may take.
const LIMIT: Duration = Duration::from_secs(5);

fn direct(lab: &Lab, protocol: Protocol) -> Client {
    Client::new(&lab.clients[0], protocol, (BACKEND_1, PORT))
}

#[test]
fn every_backend_is_reached_by_tcp_and_udp_of_both_families_and_sees_the_client() -> Result<()> {
    let lab = Lab::with(LabOptions {
        ipv6: true,
        ..LabOptions::default()
    })?;
    let _backends = Backend::start_all(&lab.backends)?;
    let before = Counters::of(&lab.backends[0])?;
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for number in 1..=3 {
                let client = Client::new(&lab.clients[1], protocol, (family.backend(number), PORT));
                let report = client.requests(50, 10)?;
                assert_eq!(report.by_backend(), BTreeMap::from([(number.into(), 50)]), "{report}");
                assert_eq!(report.clients_seen(), BTreeSet::from([family.client(2)]));
            }
        }
    }
    let counted = Counters::of(&lab.backends[0])?.since(&before);
    assert_eq!(counted.get("UdpInDatagrams"), Some(50));
    assert_eq!(counted.get("Udp6InDatagrams"), Some(50));
    assert_eq!(counted.get("TcpPassiveOpens"), Some(100));
    assert_eq!(counted.checksum_errors(), 0);
    Ok(())
}

#[test]
fn long_flows_of_ipv6_live_as_those_of_ipv4() -> Result<()> {
    let lab = Lab::with(LabOptions {
        ipv6: true,
        ..LabOptions::default()
    })?;
    let _backend = Backend::start(&lab.backends[0], 1)?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let client = Client::new(&lab.clients[0], protocol, (names::BACKEND_1_V6, PORT));
        let report = LongFlows::start(&client, 20)?.stop()?;
        assert_eq!(report.by_backend(), BTreeMap::from([(1, 20)]), "{report}");
        assert_eq!(report.broken(), 0, "{report}");
    }
    Ok(())
}

#[test]
fn failures_are_reported_with_their_reason() -> Result<()> {
    let lab = Lab::start()?;
    let mut backend = Backend::start(&lab.backends[0], 7)?;
    let client = direct(&lab, Protocol::Tcp);
    backend.freeze()?;
    let report = client.requests(3, 3)?;
    let unanswered = BTreeMap::from([("no answer within 1s".to_owned(), 3)]);
    assert_eq!(report.failures(), unanswered);
    backend.thaw()?;
    assert_eq!(client.requests(3, 3)?.by_backend(), BTreeMap::from([(7, 3)]));

    let steady = SteadyRequests::start(&client, Duration::from_millis(5));
    backend.kill9()?;
    let refused = client.requests(3, 3)?;
    assert_eq!(
        refused.failures(),
        BTreeMap::from([("connect: connection refused".to_owned(), 3)])
    );
    until("a steady request that fails", LIMIT, || {
        Ok((!steady.so_far().failures().is_empty()).then_some(()))
    })?;
    backend.launch()?;
    let restarted = Instant::now();
    until("an answer of the backend that came back", LIMIT, || {
        Ok((!steady.so_far().since(restarted).by_backend().is_empty()).then_some(()))
    })?;
    let report = steady.stop()?;
    assert!(report.since(restarted).failures().is_empty(), "{report}");
    Ok(())
}

#[test]
fn long_flows_notice_pauses_and_breaks() -> Result<()> {
    let lab = Lab::start()?;
    let mut backend = Backend::start(&lab.backends[0], 1)?;
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|protocol| direct(&lab, protocol));

    let quiet = LongFlows::start(&tcp, 20)?;
    let report = quiet.stop()?;
    assert_eq!(report.by_backend(), BTreeMap::from([(1, 20)]));
    assert_eq!(report.broken(), 0, "{report}");

    let flows = [LongFlows::start(&tcp, 20)?, LongFlows::start(&udp, 20)?];
    backend.freeze()?;
    // Time itself is what is tested here: a pause that is longer than a gap, and shorter than the timeout.
    std::thread::sleep(Duration::from_millis(400));
    backend.thaw()?;
    // Answered again, so every flow has had its answer late rather than not at all.
    let answered = LongFlows::start(&tcp, 20)?.stop()?;
    assert_eq!(answered.by_backend(), BTreeMap::from([(1, 20)]));
    for flows in flows {
        let report = flows.stop()?;
        let gaps = report
            .problems()
            .filter(|(_, problem)| matches!(problem, Problem::Gap(_)))
            .count();
        assert_eq!((gaps, report.broken()), (20, 0), "{report}");
    }

    let flows = LongFlows::start(&tcp, 20)?;
    backend.kill9()?;
    let report = flows.stop()?;
    assert_eq!(report.broken(), 20, "{report}");
    Ok(())
}

#[test]
fn health_endpoint_says_what_it_is_told_to() -> Result<()> {
    let lab = Lab::start()?;
    let backend = Backend::start(&lab.backends[0], 1)?;
    let status = || -> Result<String> {
        let response = lab.gateway.run(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect((BACKEND_1, HEALTH_PORT))?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: backend\r\n\r\n")?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response)
        })??;
        Ok(response.lines().next().unwrap_or_default().to_owned())
    };
    assert_eq!(status()?, "HTTP/1.1 200 OK");
    for (healthy, line) in [(false, "HTTP/1.1 503 Service Unavailable"), (true, "HTTP/1.1 200 OK")] {
        backend.set_healthy(healthy)?;
        until(line, LIMIT, || Ok((status()? == line).then_some(())))?;
    }
    Ok(())
}

#[test]
fn racing_first_packets_are_of_one_five_tuple_and_both_answered() -> Result<()> {
    let lab = Lab::start()?;
    let _backend = Backend::start(&lab.backends[0], 1)?;
    // The neighbours on the way are found once, before the race.
    direct(&lab, Protocol::Udp).requests(1, 1)?;
    let to = SocketAddr::from((BACKEND_1, PORT));
    let races = race_first_packets(&lab.clients[0], CLIENT, 20_000..=20_099, to)?;
    assert_eq!(races.len(), 100);
    for race in &races {
        let mut sequences: Vec<u64> = race.answers.iter().map(|answer| answer.sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, [0, 1], "{race:?}");
        let client = SocketAddr::from((CLIENT, race.port));
        assert!(race.answers.iter().all(|answer| answer.client == client), "{race:?}");
    }
    let overlapped = races.iter().filter(|race| race.overlapped).count();
    assert!(
        2 * overlapped > races.len(),
        "only {overlapped} of {} raced",
        races.len()
    );
    assert!(races.iter().all(|race| race.cpus[0] != race.cpus[1]), "{races:?}");
    Ok(())
}

/// Stands in for `xlb`: answers as soon as it runs, and leaves word of everything asked of it.
const FAKE_AGENT: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> calls
case $1 in
    run) cp "$3" seen.yaml; echo started; trap 'rm alive; exit 0' TERM; trap 'echo reloaded' HUP; touch alive
         while :; do sleep 0.01; done ;;
    status) [ -e alive ] && echo '{"version": 1}' ;;
esac
"#;

#[test]
fn gateway_drives_an_agent_through_its_life() -> Result<()> {
    let lab = Lab::start()?;
    let directory = lab.instance().directory()?;
    let binary = directory.join("fake");
    fs::write(&binary, FAKE_AGENT)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;

    let mut gateway = Gateway::start_binary(&lab, binary, "services: []\n")?;
    assert_eq!(gateway.status()?, serde_json::json!({"version": 1}));
    let expected = format!("api:\n  socket: {}\nservices: []\n", gateway.socket().display());
    assert_eq!(fs::read_to_string(directory.join("seen.yaml"))?, expected);
    gateway.reload()?;
    until("the reload in the log", LIMIT, || {
        Ok(gateway.log().contains("reloaded").then_some(()))
    })?;
    gateway.kill9()?;
    assert_eq!(gateway.process(), None);
    fs::remove_file(directory.join("alive"))?;
    gateway.launch()?;
    assert!(gateway.terminate()?.success());
    assert!(gateway.kill9().is_err(), "it runs no more");
    drop(gateway);
    let calls = fs::read_to_string(directory.join("calls"))?;
    let pins = lab.pins();
    assert_eq!(
        calls.lines().last(),
        Some(format!("detach --pins {}", pins.display()).as_str())
    );
    Ok(())
}

#[test]
fn agent_that_ends_at_once_is_reported_with_its_log() -> Result<()> {
    let lab = Lab::start()?;
    let binary = lab.instance().directory()?.join("fake");
    fs::write(&binary, "#!/bin/sh\necho no such interface; exit 1\n")?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let error = Gateway::start_binary(&lab, binary, "services: []\n").expect_err("it ended");
    assert!(format!("{error:#}").contains("no such interface"), "{error:#}");
    Ok(())
}
