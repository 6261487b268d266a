//! What the stages decide for a packet that is forwarded.

use lb_common::{backend::NextHop, connection::Direction, flow::FlowKey};

/// Where a packet goes.
pub(crate) struct Route<A> {
    /// The tuple it leaves with.
    pub(crate) to: FlowKey<A>,
    /// Where to send it, if that is known.
    pub(crate) next_hop: NextHop,
    /// Which way it goes.
    pub(crate) direction: Direction,
    /// Service id, for the counters.
    pub(crate) service: u32,
    /// Backend id, for the counters.
    pub(crate) backend: u32,
}
