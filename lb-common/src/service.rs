//! Listeners and services.

use crate::{
    address::{V4, V6},
    byte_order::Be16,
};

/// Key of the listener map: what clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey<A> {
    /// The VIP.
    pub address: A,
    /// The port.
    pub port: Be16,
    /// [`crate::flow::protocol`] number.
    pub protocol: u8,
    padding: u8,
}

const _: () = assert!(size_of::<ListenerKey<V4>>() == 8);
const _: () = assert!(size_of::<ListenerKey<V6>>() == 20);

impl<A> ListenerKey<A> {
    /// The listener on `address` and `port` for `protocol`.
    #[inline(always)]
    pub const fn new(address: A, port: Be16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            padding: 0,
        }
    }
}

/// How a new connection is given a slot of its service's table. Slots repeat a backend as often as its weight says, so every
/// scheduler respects weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheduler {
    /// One slot after the other.
    RoundRobin = 0,
    /// A random slot.
    Random = 1,
    /// By the client's address alone, over a Maglev table.
    SourceHash = 2,
    /// By the five-tuple, over a Maglev table.
    Maglev = 3,
}

/// How packets of a service reach its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Forwarding {
    /// The destination is rewritten; the reply must come back through this host.
    Nat = 0,
    /// Source and destination are rewritten.
    FullNat = 1,
    /// Only the Ethernet addresses are rewritten; the backend owns the VIP and answers the client without us.
    Dsr = 2,
}

/// What the program must know of a service beside its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// A [`Scheduler`] number.
    pub scheduler: u8,
    /// A [`Forwarding`] number.
    pub forwarding: u8,
    /// 1 in a record that was written, 0 in one that was not: the map is an array and has every index.
    pub defined: u8,
    padding: [u8; 5],
}

const _: () = assert!(size_of::<Service>() == 8);

impl Service {
    /// What stands at the index of a service that is not.
    pub const CLEARED: Self = Self {
        scheduler: 0,
        forwarding: 0,
        defined: 0,
        padding: [0; 5],
    };

    /// A service with this scheduler and forwarding mode.
    pub const fn new(scheduler: Scheduler, forwarding: Forwarding) -> Self {
        Self {
            scheduler: scheduler as u8,
            forwarding: forwarding as u8,
            defined: 1,
            padding: [0; 5],
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]`, padding is a field, every bit pattern is a value.
unsafe impl aya::Pod for ListenerKey<V4> {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for ListenerKey<V6> {}
#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]`, padding is a field, every bit pattern is a value.
unsafe impl aya::Pod for Service {}
