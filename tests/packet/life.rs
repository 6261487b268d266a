//! A connection's life: its phases, a lost half, ports used again, dead backends.

use lb_common::{
    connection::{Direction, Phase, Seen, phase},
    service::Forwarding,
};
use lb_tests::{
    diff::{assert_packet_eq, endpoints},
    names::{BACKEND_1, BACKEND_2, CLIENT, VIP},
    packet::{Packet, TcpFlags},
};
use xlb::dataplane::{BackendId, ConnectionEntry, Dataplane as _, ServiceId};

use crate::fixture::{Fixture, PORT, from_backend, from_client, syn, to_backend, to_client};

/// Entry of the only connection, by direction.
#[track_caller]
fn entry(fixture: &Fixture, direction: Direction) -> ConnectionEntry {
    let entries = fixture.connections();
    let mut matching = entries.iter().filter(|entry| entry.direction == direction);
    let found = *matching.next().expect("an entry of this direction");
    assert!(matching.next().is_none(), "one connection only: {entries:?}");
    found
}

/// Phase of the only connection.
#[track_caller]
fn current_phase(fixture: &Fixture) -> Phase {
    phase(
        entry(fixture, Direction::Forward).seen,
        entry(fixture, Direction::Reply).seen,
    )
}

fn client_sends(fixture: &mut Fixture, flags: TcpFlags) {
    fixture.forwarded(&syn().flags(flags).build());
}

fn backend_sends(fixture: &mut Fixture, flags: TcpFlags) {
    fixture.forwarded(&from_backend(Packet::tcp().to(CLIENT, 40_000).flags(flags), BACKEND_1).build());
}

/// A fixture with the connection of [`syn`] established to the first backend.
fn established() -> Fixture {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1, BACKEND_2]);
    client_sends(&mut fixture, TcpFlags::SYN);
    backend_sends(&mut fixture, TcpFlags::SYN | TcpFlags::ACK);
    client_sends(&mut fixture, TcpFlags::ACK);
    fixture
}

#[test]
fn handshake_and_close_are_followed() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1]);
    client_sends(&mut fixture, TcpFlags::SYN);
    assert_eq!(current_phase(&fixture), Phase::HalfOpen);
    backend_sends(&mut fixture, TcpFlags::SYN | TcpFlags::ACK);
    assert_eq!(current_phase(&fixture), Phase::HalfOpen);
    client_sends(&mut fixture, TcpFlags::ACK);
    assert_eq!(current_phase(&fixture), Phase::Established);
    client_sends(&mut fixture, TcpFlags::FIN | TcpFlags::ACK);
    assert_eq!(current_phase(&fixture), Phase::Established);
    backend_sends(&mut fixture, TcpFlags::FIN | TcpFlags::ACK);
    assert_eq!(current_phase(&fixture), Phase::Closing);
}

#[test]
fn entries_of_a_connection_name_each_other() {
    let fixture = established();
    let (forward, reply) = (entry(&fixture, Direction::Forward), entry(&fixture, Direction::Reply));
    assert_eq!(forward.twin, reply.key);
    assert_eq!(reply.twin, forward.key);
    assert_eq!((forward.service, forward.backend), (ServiceId(1), BackendId(10)));
    assert_eq!((reply.service, reply.backend), (ServiceId(1), BackendId(10)));
}

#[test]
fn reset_shortens_the_life_of_a_connection_and_does_not_end_it() {
    let mut fixture = established();
    backend_sends(&mut fixture, TcpFlags::RST);
    assert_eq!(current_phase(&fixture), Phase::Closing);
    // It was forged: both sides go on.
    client_sends(&mut fixture, TcpFlags::ACK);
    backend_sends(&mut fixture, TcpFlags::ACK);
}

#[test]
fn syn_on_an_established_connection_goes_to_its_backend() {
    let mut fixture = established();
    let out = fixture.forwarded(&syn().build());
    assert_packet_eq(&out, &to_backend(syn(), BACKEND_1, 62));
}

#[test]
fn syn_on_a_closed_connection_starts_anew_at_once() {
    let mut fixture = established();
    client_sends(&mut fixture, TcpFlags::FIN | TcpFlags::ACK);
    backend_sends(&mut fixture, TcpFlags::FIN | TcpFlags::ACK);
    client_sends(&mut fixture, TcpFlags::SYN);
    assert_eq!(current_phase(&fixture), Phase::HalfOpen);
    assert_eq!(entry(&fixture, Direction::Forward).seen, Seen(Seen::SYN));
    assert_eq!(entry(&fixture, Direction::Reply).seen, Seen(0));
    let traffic = fixture.dataplane.service_traffic(ServiceId(1)).expect("counters");
    assert_eq!(traffic.connections, 2, "it counts as another connection");
}

#[test]
fn retransmitted_syn_keeps_its_backend_while_that_lives() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1, BACKEND_2]);
    for _ in 0..3 {
        let out = fixture.forwarded(&syn().build());
        assert_packet_eq(&out, &to_backend(syn(), BACKEND_1, 62));
    }
    fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
    let out = fixture.forwarded(&syn().build());
    assert_packet_eq(&out, &to_backend(syn(), BACKEND_2, 62));
    assert_eq!(fixture.connections().len(), 2, "the old entries are gone");
}

#[test]
fn established_connection_stays_on_a_backend_that_was_declared_down() {
    let mut fixture = established();
    fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
    let ack = syn().flags(TcpFlags::ACK);
    assert_packet_eq(&fixture.forwarded(&ack.build()), &to_backend(ack, BACKEND_1, 62));
}

#[test]
fn udp_flow_leaves_a_dead_backend_at_once() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1, BACKEND_2]);
    let query = from_client(Packet::udp().from(CLIENT, 5353).to(VIP, PORT).payload(b"q"));
    assert_packet_eq(
        &fixture.forwarded(&query.build()),
        &to_backend(query.clone(), BACKEND_1, 62),
    );
    fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
    assert_packet_eq(&fixture.forwarded(&query.build()), &to_backend(query, BACKEND_2, 62));
    assert_eq!(fixture.connections().len(), 2, "the old entries are gone");
}

#[test]
fn late_reply_of_a_left_backend_is_passed_and_never_reaches_the_client() {
    let mut fixture = Fixture::with_service(Forwarding::Nat, &[BACKEND_1, BACKEND_2]);
    let query = from_client(Packet::udp().from(CLIENT, 5353).to(VIP, PORT).payload(b"q"));
    fixture.forwarded(&query.build());
    fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
    fixture.forwarded(&query.build());
    let late = from_backend(Packet::udp().to(CLIENT, 5353).payload(b"a"), BACKEND_1);
    fixture.passed(&late.build(), "no_listener");
}

#[test]
fn lost_reply_entry_is_made_anew_by_the_clients_next_packet() {
    let mut fixture = established();
    fixture.remove(&entry(&fixture, Direction::Reply).key);
    fixture.counts();
    repaired_by(&mut fixture, |fixture| client_sends(fixture, TcpFlags::ACK));
    let reply = Packet::tcp().to(CLIENT, 40_000);
    let out = fixture.forwarded(&from_backend(reply.clone(), BACKEND_1).build());
    assert_packet_eq(&out, &to_client(reply, 62));
}

#[test]
fn lost_forward_entry_is_made_anew_by_the_backends_next_packet() {
    let mut fixture = established();
    fixture.remove(&entry(&fixture, Direction::Forward).key);
    fixture.counts();
    repaired_by(&mut fixture, |fixture| backend_sends(fixture, TcpFlags::ACK));
    let ack = syn().flags(TcpFlags::ACK);
    assert_packet_eq(&fixture.forwarded(&ack.build()), &to_backend(ack, BACKEND_1, 62));
}

/// Sends packets until one repairs the pair: an entry looks for its twin at most once a second.
#[track_caller]
fn repaired_by(fixture: &mut Fixture, send: impl Fn(&mut Fixture)) {
    lb_tests::wait::until_true("the pair is repaired", std::time::Duration::from_secs(5), || {
        send(fixture);
        fixture.counts().get("pair_repaired").copied() == Some(1)
    })
    .expect("the pair is repaired");
    assert_eq!(fixture.connections().len(), 2);
}

#[test]
fn forward_packet_finds_the_reply_entry_that_lost_its_twin() {
    let mut fixture = established();
    let forward = entry(&fixture, Direction::Forward);
    fixture.remove(&forward.key);
    // The client starts anew before the backend said anything: the reply entry that is still there is the connection's own, but
    // what the old one had sent is over.
    let out = fixture.forwarded(&syn().build());
    let backend = endpoints(&out).expect("a TCP packet").1.ip();
    assert!(backend == BACKEND_1 || backend == BACKEND_2, "{backend}");
    let forward = entry(&fixture, Direction::Forward);
    assert!(
        fixture
            .connections()
            .iter()
            .any(|reply| reply.key == forward.twin && reply.twin == forward.key),
        "the new connection has both entries: {:?}",
        fixture.connections()
    );
    let reply = fixture
        .connections()
        .into_iter()
        .find(|entry| entry.key == forward.twin)
        .expect("the reply entry");
    assert_eq!(reply.seen, Seen(0));
}

#[test]
fn closed_connection_keeps_its_backend_when_its_port_is_used_again() {
    let mut fixture = established();
    backend_sends(&mut fixture, TcpFlags::RST);
    assert_packet_eq(&fixture.forwarded(&syn().build()), &to_backend(syn(), BACKEND_1, 62));
    assert_eq!(current_phase(&fixture), Phase::HalfOpen);
    fixture.set_backend(BackendId(10), ServiceId(1), BACKEND_1, false);
    assert_packet_eq(&fixture.forwarded(&syn().build()), &to_backend(syn(), BACKEND_2, 62));
    assert_eq!(fixture.connections().len(), 2, "the old entries are gone");
}
