use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::model::{
    Backend, Connections, Echo, Forwarding, Listener, Model, Ports, Protocol, Scheduler, Service, Snat, Timeouts,
};

const EXPECT: RangeInclusive<u16> = 200..=399;

fn check(probe: Probe) -> HealthCheck {
    HealthCheck {
        probe,
        port: None,
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(10),
        rise: 2,
        fall: 3,
    }
}

fn http() -> HealthCheck {
    check(Probe::Http {
        path: "/healthz?deep=1".to_owned(),
        expect: EXPECT,
    })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that nobody listens on: it was free a moment ago.
async fn closed() -> SocketAddr {
    listen().await.1
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Result of an HTTP probe against a server that sends `answer` and closes, and the request that it got.
async fn probe_http(answer: &'static str) -> (Result<(), String>, String) {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        head
    });
    let result = probe(address, &http()).await.map_err(|error| error.to_string());
    (result, server.await.unwrap())
}

#[tokio::test]
async fn tcp_probe_passes_when_a_connection_is_accepted_and_resets_it() {
    let (listener, address) = listen().await;
    probe(address, &check(Probe::Tcp)).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::ConnectionReset,
        "no TIME_WAIT is left behind"
    );
}

#[tokio::test]
async fn closed_port_is_refused() {
    for check in [check(Probe::Tcp), http()] {
        let error = probe(closed().await, &check).await.unwrap_err();
        assert_eq!(error.to_string(), "connection refused");
    }
}

#[tokio::test]
async fn port_of_the_check_overrides_that_of_the_backend() {
    let (_listener, address) = listen().await;
    let check = HealthCheck {
        port: Some(address.port()),
        ..check(Probe::Tcp)
    };
    probe(closed().await, &check).await.unwrap();
}

#[tokio::test]
async fn silent_server_times_out() {
    // The connection is accepted by the kernel; nobody ever answers.
    let (_listener, address) = listen().await;
    let check = HealthCheck {
        timeout: Duration::from_millis(50),
        ..http()
    };
    let error = probe(address, &check).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out after 50ms");
}

#[tokio::test]
async fn status_decides() {
    let (result, request) = probe_http("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(result, Ok(()));
    let mut lines = request.lines();
    assert_eq!(lines.next(), Some("GET /healthz?deep=1 HTTP/1.1"));
    assert!(
        lines.any(|line| line.to_lowercase().starts_with("host: 127.0.0.1:")),
        "{request}"
    );

    let (result, _) = probe_http("HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(result, Err("status 503, expected 200..=399".to_owned()));
}

#[tokio::test]
async fn body_is_not_waited_for() {
    let (result, _) = probe_http("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin").await;
    assert_eq!(result, Ok(()));
}

#[tokio::test]
async fn what_is_not_http_fails_with_a_reason() {
    let (result, _) = probe_http("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    assert_eq!(
        result,
        Err("no valid HTTP response: invalid HTTP version parsed".to_owned())
    );
    let (result, _) = probe_http("").await;
    assert_eq!(
        result,
        Err("no valid HTTP response: connection closed before message completed".to_owned())
    );
}

/// A model with one service, `web`, with these backends.
fn model(check: Option<HealthCheck>, backends: &[SocketAddr]) -> Arc<Model> {
    let second = Duration::from_secs(1);
    Arc::new(Model {
        interfaces: Vec::new(),
        socket: "xlb.sock".into(),
        connections: Connections {
            max: 1,
            half_open_max: 1,
            timeouts: Timeouts {
                tcp_half_open: second,
                tcp_established: second,
                tcp_closing: second,
                udp: second,
            },
        },
        snat: Snat {
            addresses: Vec::new(),
            ports: 1024..=65_535,
        },
        services: vec![Service {
            name: "web".into(),
            listeners: vec![Listener {
                address: [203, 0, 113, 10].into(),
                ports: Ports::single(80),
                protocol: Protocol::Tcp,
            }],
            forwarding: Forwarding::Nat,
            scheduler: Scheduler::RoundRobin,
            health_check: check,
            when_all_down: WhenAllDown::Drop,
            echo: Echo::Auto,
            backends: backends
                .iter()
                .map(|address| Backend {
                    address: *address,
                    weight: 1,
                })
                .collect(),
        }],
    })
}

/// Waits until the backend has this status.
async fn reaches(store: &Store, backend: SocketAddr, status: Status) {
    let is_there = |state: &crate::model::store::State| {
        state
            .health("web", backend)
            .is_some_and(|health| health.tally.status() == status)
    };
    store.subscribe().wait_for(is_there).await.unwrap();
}

#[tokio::test]
async fn backends_are_probed_until_they_leave_the_configuration() {
    let (listener, up) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let down = closed().await;
    let store = Arc::new(Store::new(model(Some(check(Probe::Tcp)), &[up, down])));
    let runner = tokio::spawn(run(Arc::clone(&store)));
    reaches(&store, up, Status::Up).await;
    reaches(&store, down, Status::Down).await;
    let failure = store.state().health("web", down).unwrap().last_failure.clone();
    assert_eq!(failure.as_deref(), Some("connection refused"));

    // A new one is probed too.
    let (_new_listener, new) = listen().await;
    store.replace_model(model(Some(check(Probe::Tcp)), &[up, down, new]));
    reaches(&store, new, Status::Up).await;

    // One that comes back to life is noticed.
    let _listener = TcpListener::bind(down).await.unwrap();
    reaches(&store, down, Status::Up).await;
    assert!(accepted.load(Ordering::Relaxed) > 1, "probed again and again");
    runner.abort();
}

#[tokio::test]
async fn reload_restarts_only_checks_that_changed() {
    let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let first = model(Some(check(Probe::Tcp)), &[a, b]);
    let mut checks = Checks::new(Arc::new(Store::new(Arc::clone(&first))));
    assert_eq!(checks.follow(&first), 2);
    assert_eq!(checks.follow(&first), 0, "nothing changed");
    assert_eq!(
        checks.follow(&model(Some(check(Probe::Tcp)), &[b, a, c])),
        1,
        "one is new"
    );
    assert_eq!(checks.follow(&model(Some(http()), &[b, c])), 2, "another kind of probe");
    assert_eq!(checks.running.len(), 2, "one is gone");
    assert_eq!(checks.follow(&model(None, &[b, c])), 0);
    assert!(checks.running.is_empty(), "nobody asks for checks");
}

#[tokio::test]
async fn dropping_a_check_ends_its_task() {
    let first = model(Some(check(Probe::Tcp)), &[SocketAddr::from(([127, 0, 0, 1], 1))]);
    let store = Arc::new(Store::new(Arc::clone(&first)));
    let mut checks = Checks::new(Arc::clone(&store));
    checks.follow(&first);
    drop(checks);
    // The task holds the store; when it has ended, this is the only reference.
    while Arc::strong_count(&store) > 1 {
        tokio::task::yield_now().await;
    }
}
