//! Flows that live through the whole test and notice everything that happens to them.

use std::{
    fmt,
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    Protocol,
    client::{Background, Client, block_on},
    conversation::Conversation,
    report::count,
};

/// From one number to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// An answer that takes longer is a gap: four numbers.
const GAP: Duration = Duration::from_millis(200);
/// How long flows may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// What happened to a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// An answer came late, after this time.
    Gap(Duration),
    /// A UDP exchange failed; the flow goes on.
    Lost(String),
    /// The flow is over: reset, closed, no answer in time.
    Broken(String),
    /// Another backend answered than before.
    Moved {
        /// Id of the earlier backend.
        from: u32,
        /// Id of the later one.
        to: u32,
    },
}

/// One flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// The backend that answered last; `None` if none ever did.
    pub backend: Option<u32>,
    /// Numbers that were answered.
    pub answered: u64,
    /// The longest that an answer took.
    pub longest_wait: Duration,
    /// What happened, and when.
    pub problems: Vec<(Instant, Problem)>,
}

/// All flows of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsReport {
    /// The flows.
    pub flows: Vec<Flow>,
}

impl FlowsReport {
    /// Everything that happened to any flow.
    pub fn problems(&self) -> impl Iterator<Item = &(Instant, Problem)> {
        self.flows.iter().flat_map(|flow| &flow.problems)
    }

    /// Number of flows that ended before they were told to.
    pub fn broken(&self) -> usize {
        self.problems()
            .filter(|(_, problem)| matches!(problem, Problem::Broken(_)))
            .count()
    }

    /// Number of flows by the backend that answered last.
    pub fn by_backend(&self) -> std::collections::BTreeMap<u32, usize> {
        count(self.flows.iter().filter_map(|flow| flow.backend))
    }

    /// The longest that an answer took, over all flows.
    pub fn longest_wait(&self) -> Duration {
        self.flows
            .iter()
            .map(|flow| flow.longest_wait)
            .max()
            .unwrap_or_default()
    }
}

impl fmt::Display for FlowsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered: u64 = self.flows.iter().map(|flow| flow.answered).sum();
        write!(
            f,
            "{} flows, {} broken, {answered} answers, longest wait {:?}",
            self.flows.len(),
            self.broken(),
            self.longest_wait()
        )?;
        for (problem, times) in count(self.problems().map(|(_, problem)| problem.clone())) {
            write!(f, "\n  {times} x {problem:?}")?;
        }
        Ok(())
    }
}

/// Flows in the background, each asking with the next number every 50 ms.
#[derive(Debug)]
pub struct LongFlows(Background<FlowsReport>);

impl LongFlows {
    /// Opens `flows` flows and waits until each was answered once or failed. The client's timeout is after how long without an
    /// answer a TCP flow is broken.
    ///
    /// # Errors
    ///
    /// When they take unduly long to begin.
    pub fn start(client: &Client, flows: usize) -> Result<Self> {
        let (begun, all_begun) = mpsc::channel();
        let (protocol, to, timeout) = (client.protocol, client.to, client.timeout);
        let background = Background::start(&client.namespace, move |stop| {
            block_on(async move {
                let (stop_all, stopped) = watch::channel(());
                let mut running = JoinSet::new();
                for _ in 0..flows {
                    running.spawn(flow(protocol, to, timeout, begun.clone(), stopped.clone()));
                }
                drop(begun);
                // An error means the same: nobody waits for these flows anymore.
                let _ = stop.await;
                drop(stop_all);
                FlowsReport {
                    flows: running.join_all().await,
                }
            })
        });
        let deadline = Instant::now() + BEGIN_LIMIT;
        for number in 0..flows {
            let left = deadline.saturating_duration_since(Instant::now());
            let has_begun = all_begun.recv_timeout(left).is_ok();
            ensure!(has_begun, "only {number} of {flows} flows began within {BEGIN_LIMIT:?}");
        }
        Ok(Self(background))
    }

    /// Lets each flow ask one last time, ends them, and reports. So a flow that is not broken in the report was alive at its end.
    ///
    /// # Errors
    ///
    /// When the client itself could not work.
    pub fn stop(self) -> Result<FlowsReport> {
        self.0.stop()
    }
}

async fn flow(
    protocol: Protocol,
    to: SocketAddr,
    timeout: Duration,
    begun: mpsc::Sender<()>,
    mut stopped: watch::Receiver<()>,
) -> Flow {
    let mut flow = Flow::default();
    let mut begun = Some(begun);
    let mut conversation = match Conversation::open(protocol, to, timeout).await {
        Ok(conversation) => conversation,
        Err(reason) => {
            flow.problems.push((Instant::now(), Problem::Broken(reason)));
            report_begin(&mut begun);
            return flow;
        }
    };
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = false;
    for sequence in 0.. {
        let asked = Instant::now();
        match conversation.ask(sequence, timeout).await {
            Ok(answer) => flow.note_answer(asked, answer.backend),
            Err(reason) if protocol == Protocol::Udp => flow.problems.push((asked, Problem::Lost(reason))),
            Err(reason) => {
                flow.problems.push((asked, Problem::Broken(reason)));
                break;
            }
        }
        report_begin(&mut begun);
        if last {
            break;
        }
        tokio::select! {
            _ = stopped.changed() => last = true,
            _ = ticks.tick() => {}
        }
    }
    report_begin(&mut begun);
    flow
}

/// Tells the starter, once.
fn report_begin(begun: &mut Option<mpsc::Sender<()>>) {
    if let Some(begun) = begun.take() {
        // An error means that the starter has given up.
        let _ = begun.send(());
    }
}

impl Flow {
    fn note_answer(&mut self, asked: Instant, backend: u32) {
        let wait = asked.elapsed();
        self.answered += 1;
        self.longest_wait = self.longest_wait.max(wait);
        if wait > GAP {
            self.problems.push((asked, Problem::Gap(wait)));
        }
        match self.backend.replace(backend) {
            Some(from) if from != backend => self.problems.push((asked, Problem::Moved { from, to: backend })),
            _ => {}
        }
    }
}
