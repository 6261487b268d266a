//! The two loops that keep the maps true: reconciling when something changed, sweeping the connection table.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_common::verdict::DropReason;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, error, warn};

use super::{Shared, host, lock, warnings};
use crate::{
    dataplane::Dataplane as _,
    describe::{backend_address, describe},
    expiry,
    model::Model,
    reconciler::{self, Desired},
};

/// How long a change waits for others: a rack that fails is one reconciliation, not twenty.
const SETTLE: Duration = Duration::from_millis(2);

/// First and longest pause before a reconciliation that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// From one sweep to the next. Timeouts are exact to this.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Reconciles whenever configuration, health or the network changed, and again after a failure.
pub(super) async fn keep_reconciled(shared: Arc<Shared>) {
    let mut state = shared.store.subscribe();
    let mut network = shared.network.clone();
    let mut pause = RETRY.0;
    loop {
        let failed = lock(&shared.observed).problem.is_some();
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            changed = network.changed() => if changed.is_err() { return },
            () = shared.released.notified() => {}
            () = sleep(pause), if failed => pause = (pause * 2).min(RETRY.1),
        }
        sleep(SETTLE).await;
        state.mark_unchanged();
        network.mark_unchanged();
        match reconcile(&shared).await {
            Ok(()) => pause = RETRY.0,
            Err(error) => error!(
                error = describe(&error),
                "the data plane is not what the configuration asks for"
            ),
        }
    }
}

/// Makes the maps say what configuration, health and ways ask for.
pub(super) async fn reconcile(shared: &Arc<Shared>) -> Result<()> {
    let model = Arc::clone(shared.store.state().model());
    let host_ports = host::ports_of_own_sockets(&model).await;
    let worker = Arc::clone(shared);
    let result = tokio::task::spawn_blocking(move || {
        let mut dataplane = lock(&worker.dataplane);
        // Not before: who waited for the data plane must not write what was desired before the other one's write.
        let desired = Desired::new(&worker.store.state(), &worker.network.borrow(), host_ports);
        reconciler::reconcile(&mut *dataplane, &desired)
    })
    .await?;
    let mut observed = lock(&shared.observed);
    match result {
        Ok(report) => {
            debug!(writes = report.writes, "reconciled");
            let targets = host::targets(&model, &report);
            shared.targets.send_if_modified(|known| {
                let changed = *known != targets;
                *known = targets;
                changed
            });
            observed.problem = None;
            observed.report = report;
            drop(observed);
            warn_of_routers(shared, &model);
            Ok(())
        }
        Err(error) => {
            observed.problem = Some(error.to_string());
            Err(error.into())
        }
    }
}

/// Says which backends of `dsr` services are behind a router, each once.
fn warn_of_routers(shared: &Shared, model: &Model) {
    let now = warnings::behind_routers(model, &shared.network.borrow().ways);
    let mut observed = lock(&shared.observed);
    for (service, backend) in now.difference(&observed.behind_routers) {
        let backend = backend_address(*backend);
        warn!(service = &**service, backend, "{}", warnings::BEHIND_A_ROUTER);
    }
    observed.behind_routers = now;
}

/// Sweeps the connection table at regular intervals, and frees the ids of removed backends that no connection names.
pub(super) async fn sweep_regularly(shared: Arc<Shared>) {
    let mut ticks = interval(SWEEP_INTERVAL);
    // A sweep of a large table may take longer than the interval.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let worker = Arc::clone(&shared);
        match tokio::task::spawn_blocking(move || sweep(&worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(
                error = describe(&error),
                "sweep of the connection table failed, trying again"
            ),
            Err(panicked) => error!(%panicked, "sweep of the connection table failed"),
        }
    }
}

fn sweep(shared: &Shared) -> Result<()> {
    let model = Arc::clone(shared.store.state().model());
    let mut dataplane = lock(&shared.dataplane);
    let sweep = expiry::sweep(&mut *dataplane, &model.connections.timeouts, expiry::now()?)?;
    if !sweep.unreferenced.is_empty() {
        let desired = Desired::new(
            &shared.store.state(),
            &shared.network.borrow(),
            lb_common::settings::PortRange::EMPTY,
        );
        let released = reconciler::release(&mut *dataplane, &desired, &sweep.unreferenced)?;
        debug!(released, "ids of removed backends are free again");
        if released > 0 {
            // Their addresses have lost a role.
            shared.released.notify_one();
        }
    }
    let verdicts = dataplane.verdicts()?;
    drop(dataplane);
    let mut observed = lock(&shared.observed);
    observed.sweep = sweep;
    let exhausted = verdicts.get(DropReason::PortsExhausted as usize);
    let warning = observed
        .exhaustion
        .record(exhausted.copied().unwrap_or_default(), Instant::now(), &model);
    if let Some(warning) = warning {
        warn!("{warning}");
    }
    Ok(())
}
