//! The first two packets of a flow on two CPUs at once.

use std::{
    hint,
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::RangeInclusive,
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, anyhow};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

use super::Answer;
use crate::namespace::Namespace;

/// How long to wait for answers after both packets are sent.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// How long to look at one of the two sockets before the other.
const POLL: Duration = Duration::from_millis(2);

/// What became of one flow.
#[derive(Clone, Debug)]
pub struct Race {
    /// The client's port.
    pub port: u16,
    /// Answers to the two packets, which carry the sequence numbers 0 and 1, in order of arrival.
    pub answers: Vec<Answer>,
    /// The CPUs that sent them.
    pub cpus: [usize; 2],
    /// Whether both packets were under way at the same time. The program runs within the sending system call, so if the calls did
    /// not overlap, nothing raced.
    pub overlapped: bool,
}

/// For every port sends two datagrams of the same five-tuple, from two threads on two CPUs at once, and collects the answers.
///
/// # Errors
///
/// With fewer than two CPUs, or when a socket can't be opened.
pub fn race_first_packets(
    namespace: &Namespace,
    source: impl Into<IpAddr>,
    ports: RangeInclusive<u16>,
    to: SocketAddr,
) -> Result<Vec<Race>> {
    let (source, cpus) = (source.into(), two_cpus()?);
    namespace.run(|| {
        ports
            .map(|port| race(SocketAddr::new(source, port), to, cpus))
            .collect()
    })?
}

fn race(source: SocketAddr, to: SocketAddr, cpus: [usize; 2]) -> Result<Race> {
    let sockets = [open(source, to)?, open(source, to)?];
    let waiting = AtomicUsize::new(sockets.len());
    let sent = thread::scope(|scope| -> Result<Vec<Sent>> {
        let threads: Vec<_> = (0..sockets.len())
            .map(|number| {
                let (socket, waiting) = (&sockets[number], &waiting);
                scope.spawn(move || send_at_start(socket, number, cpus[number], waiting))
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Sent>>| {
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })?;
    Ok(Race {
        port: source.port(),
        answers: collect_answers(&sockets)?,
        cpus: [sent[0].cpu, sent[1].cpu],
        overlapped: sent[0].start < sent[1].end && sent[1].start < sent[0].end,
    })
}

/// The sending of one packet.
struct Sent {
    cpu: usize,
    start: Instant,
    end: Instant,
}

/// One of two sockets on the same five-tuple.
fn open(source: SocketAddr, to: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(source), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket
        .bind(&source.into())
        .with_context(|| format!("cannot bind {source}"))?;
    socket.connect(&to.into())?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

/// Waits on its CPU until all threads do, then sends.
fn send_at_start(socket: &UdpSocket, number: usize, cpu: usize, waiting: &AtomicUsize) -> Result<Sent> {
    // Counted down in any case, lest the other thread wait forever.
    let pinned = pin(cpu);
    waiting.fetch_sub(1, Ordering::SeqCst);
    while waiting.load(Ordering::SeqCst) != 0 {
        // A sleeping thread would take far longer to wake up than a packet takes through the whole laboratory.
        hint::spin_loop();
    }
    let start = Instant::now();
    let sent = socket.send(format!("{number}\n").as_bytes());
    let end = Instant::now();
    pinned?;
    sent?;
    let cpu = sched_getcpu()?;
    Ok(Sent { cpu, start, end })
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin a thread to cpu {cpu}"))
}

/// Two CPUs that this process may run on.
fn two_cpus() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .take(2)
        .collect();
    <[usize; 2]>::try_from(cpus).map_err(|cpus| anyhow!("a race needs two cpus, this process may use {}", cpus.len()))
}

/// Both answers, or those that came in time. The kernel may deliver both to one of the sockets.
fn collect_answers(sockets: &[UdpSocket]) -> Result<Vec<Answer>> {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let mut answers = Vec::new();
    let mut buffer = [0; 256];
    while answers.len() < sockets.len() && Instant::now() < deadline {
        for socket in sockets {
            // An error means: nothing there within the read timeout, or refused, which is no answer either.
            if let Ok(length) = socket.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]);
                answers.push(line.parse().map_err(Error::msg)?);
            }
        }
    }
    Ok(answers)
}
