//! Fragments that come before the first one of their packet.
//!
//! Only the first fragment names ports, so the program can't know where such a one goes. It hands it over; here it waits until the
//! first one has left its note, and is put back into its interface, where the program finds the note. A fragment whose first one
//! does not come is the kernel's: a note says so before it is put back.

mod packet;
mod waiting;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;
use tracing::{debug, error, warn};

use self::{
    packet::packet_of,
    waiting::{Fragment, Outlook, Waiting},
};
use super::{Shared, lock};
use crate::{
    dataplane::aya::{FragmentNotes, HeldFragments, Reinjection},
    expiry,
};

/// At most one complaint in this time.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// How frames are put back into each interface that the packet path is attached to, by its index.
pub(super) type Reinjections = HashMap<u32, Arc<Reinjection>>;

/// Lets fragments wait and go until the agent stops.
pub(super) async fn run(held: HeldFragments, notes: FragmentNotes, shared: Arc<Shared>) {
    if let Err(error) = try_run(held, notes, shared).await {
        error!(%error, "fragments that come before the first one of their packet are lost from now on");
    }
}

async fn try_run(held: HeldFragments, notes: FragmentNotes, shared: Arc<Shared>) -> io::Result<()> {
    let mut held = held.listen()?;
    let mut release = Release {
        notes,
        shared,
        complaints: Complaints::default(),
    };
    let mut waiting = Waiting::default();
    loop {
        // Without anybody waiting the time does not matter.
        let next = waiting.next().unwrap_or_else(|| Instant::now() + COMPLAINT_PERIOD);
        tokio::select! {
            fragment = held.next() => {
                let (ifindex, frame) = fragment?;
                release.admit(&mut waiting, ifindex, frame);
            }
            () = sleep_until(next.into()) => {}
        }
        waiting.look(Instant::now(), |fragment, outlook| release.look_at(fragment, outlook));
    }
}

/// What it takes to let a fragment go.
struct Release {
    notes: FragmentNotes,
    shared: Arc<Shared>,
    complaints: Complaints,
}

impl Release {
    fn admit(&mut self, waiting: &mut Waiting, ifindex: u32, frame: Vec<u8>) {
        let Some(packet) = packet_of(&frame) else {
            debug!(ifindex, length = frame.len(), "what was held is no fragment");
            return;
        };
        let fragment = Fragment { ifindex, frame, packet };
        if !waiting.admit(fragment, Instant::now()) {
            self.complaints
                .add("too many wait already; a sender sends fragments without the first one");
        }
    }

    /// Lets a fragment go if its packet's note is there, or if none will come; whether it did.
    fn look_at(&mut self, fragment: &Fragment, outlook: Outlook) -> bool {
        match self.try_look_at(fragment, outlook) {
            Ok(released) => released,
            Err(error) => {
                self.complaints.add(&error);
                // Gone, in a way.
                true
            }
        }
    }

    fn try_look_at(&mut self, fragment: &Fragment, outlook: Outlook) -> Result<bool, String> {
        let now = expiry::now().map_err(|error| error.to_string())?;
        let failed = |error| format!("cannot use the notes of fragments: {error}");
        if !self.notes.holds(&fragment.packet, now).map_err(failed)? {
            if outlook == Outlook::MayCome {
                return Ok(false);
            }
            self.notes.let_pass(&fragment.packet, now).map_err(failed)?;
        }
        let interfaces = lock(&self.shared.reinjections);
        // One that the packet path is not attached to any more takes its fragments along.
        if let Some(reinjection) = interfaces.get(&fragment.ifindex) {
            let back = reinjection.run(fragment.ifindex, &fragment.frame);
            back.map_err(|error| format!("the kernel does not take it back (Linux 5.18 or newer does): {error}"))?;
        }
        Ok(true)
    }
}

/// Fragments lost, said at most once in [`COMPLAINT_PERIOD`].
#[derive(Default)]
struct Complaints {
    lost: u64,
    last: Option<Instant>,
}

impl Complaints {
    fn add(&mut self, reason: &str) {
        self.lost += 1;
        if self.last.is_none_or(|last| last.elapsed() >= COMPLAINT_PERIOD) {
            warn!(
                fragments = self.lost,
                reason, "fragments that came before the first one of their packet are lost"
            );
            self.lost = 0;
            self.last = Some(Instant::now());
        }
    }
}
