//! Ctrl-C and its siblings: the demo ends at its next step and cleans up.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::select_all;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// Whether somebody wants the demo to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt(Arc<AtomicUsize>);

impl Interrupt {
    /// Listens for SIGINT, SIGTERM and SIGHUP (the terminal was closed) from now on.
    pub(super) fn watch() -> Result<Self> {
        let interrupt = Self::default();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .into_iter()
                .map(signal)
                .collect::<Result<Vec<_>, _>>()
        };
        let signals = signals.context("cannot listen for signals")?;
        let noted = interrupt.clone();
        // Ends with the process.
        thread::spawn(move || runtime.block_on(noted.note(signals)));
        Ok(interrupt)
    }

    async fn note(&self, mut signals: Vec<Signal>) {
        loop {
            let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
            select_all(received).await;
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => eprintln!("xlb: interrupted, cleaning up"),
                // The terminal's own Ctrl-C may come twice, by way of sudo.
                1 => {}
                _ => {
                    eprintln!("xlb: not cleaned up; the next demo does it");
                    process::exit(1);
                }
            }
        }
    }

    /// Whether somebody does.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Goes on unless interrupted.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.is_set(), "interrupted; the demo is not shown to its end");
        Ok(())
    }
}
