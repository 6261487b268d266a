//! Short exchanges: each request is a new connection, or a new UDP source port.

use std::{
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    runtime,
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    Answer, Protocol,
    conversation::Conversation,
    report::{Exchange, Report},
};
use crate::namespace::Namespace;

/// Who asks, whom, and how patiently.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where the client is.
    pub namespace: Namespace,
    /// Whom it asks.
    pub to: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// After which connecting, and then the answer, has failed.
    pub timeout: Duration,
}

impl Client {
    /// A client that waits a second for everything.
    pub fn new(namespace: &Namespace, protocol: Protocol, to: impl Into<SocketAddr>) -> Self {
        Self {
            namespace: namespace.clone(),
            to: to.into(),
            protocol,
            timeout: Duration::from_secs(1),
        }
    }

    /// Makes `count` requests, at most `concurrency` of them at a time.
    ///
    /// # Errors
    ///
    /// When the client itself can't work; failed requests are in the report.
    pub fn requests(&self, count: usize, concurrency: usize) -> Result<Report> {
        let work = async {
            let mut running = JoinSet::new();
            let mut report = Report::default();
            for _ in 0..count {
                if running.len() >= concurrency {
                    report.exchanges.extend(running.join_next().await.transpose()?);
                }
                running.spawn(self.exchange());
            }
            report.exchanges.extend(running.join_all().await);
            Ok(report)
        };
        self.namespace.run(|| block_on(work))??
    }

    /// One request on a socket of its own.
    fn exchange(&self) -> impl Future<Output = Exchange> + use<> {
        let Self {
            to, protocol, timeout, ..
        } = *self;
        async move {
            let started = Instant::now();
            let outcome = ask_once(protocol, to, timeout).await;
            Exchange { started, outcome }
        }
    }
}

async fn ask_once(protocol: Protocol, to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
    let mut conversation = Conversation::open(protocol, to, timeout).await?;
    conversation.ask(0, timeout).await
}

/// Requests at a steady rate in the background, until stopped.
#[derive(Debug)]
pub struct SteadyRequests {
    background: Background<()>,
    report: Arc<Mutex<Report>>,
}

impl SteadyRequests {
    /// Starts a request every `pause`, whether or not the earlier ones were answered.
    pub fn start(client: &Client, pause: Duration) -> Self {
        let report = Arc::default();
        let (client, shared) = (client.clone(), Arc::clone(&report));
        let background = Background::start(&client.namespace.clone(), move |stop| {
            block_on(steady(client, pause, stop, &shared))
        });
        Self { background, report }
    }

    /// The requests that have ended so far.
    pub fn so_far(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Stops, waits for the requests under way, and reports.
    ///
    /// # Errors
    ///
    /// When the client itself could not work.
    pub fn stop(self) -> Result<Report> {
        self.background.stop()?;
        Ok(mem::take(&mut lock(&self.report)))
    }
}

async fn steady(client: Client, pause: Duration, mut stop: oneshot::Receiver<()>, report: &Mutex<Report>) {
    let mut ticks = interval(pause);
    // After a delay go on at the usual pace instead of making up for it all at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            _ = ticks.tick() => { running.spawn(client.exchange()); }
            Some(Ok(exchange)) = running.join_next() => lock(report).exchanges.push(exchange),
        }
    }
    let rest = running.join_all().await;
    lock(report).exchanges.extend(rest);
}

/// A report is whole between any two of its changes, so one that a panic left behind is as good as any.
fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work on a thread inside a namespace that goes on until it is told to stop.
#[derive(Debug)]
pub(super) struct Background<T> {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Result<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts `work`, which ends soon after its argument resolves; dropping this resolves it as well.
    pub(super) fn start(
        namespace: &Namespace,
        work: impl FnOnce(oneshot::Receiver<()>) -> Result<T> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            stop,
            thread: namespace.spawn(move || work(stopped)),
        }
    }

    /// Stops the work and returns its result.
    pub(super) fn stop(self) -> Result<T> {
        // An error means that it has ended already.
        let _ = self.stop.send(());
        let result = self.thread.join();
        result.map_err(|_| anyhow!("a traffic thread panicked, its message is above"))??
    }
}

/// Runs a future to its end on this thread alone, so that all its sockets belong to this thread's namespace.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start a tokio runtime")?.block_on(future))
}
