//! Admitting a new connection: whom it is for, and whether it may be.

use lb_common::{
    flow::protocol,
    service::ListenerKey,
    verdict::{DropReason, PassReason, Verdict},
};

use crate::{connection, family::Family, maps, nat::ReplyKeys, parse::Packet, route::Route, scheduler};

/// Opens a connection for a packet that belongs to none.
#[inline(always)]
pub(crate) fn admit<F: Family>(packet: &Packet<F>) -> Result<Route<F>, Verdict> {
    let key = &packet.key;
    let listener = ListenerKey::new(key.destination, key.destination_port, key.protocol);
    // SAFETY: the value is one word, copied at once; a listener that is removed meanwhile served this packet last.
    let id = unsafe { F::listeners().get(listener) }
        .copied()
        .ok_or(PassReason::NoListener)?;
    if key.protocol == protocol::TCP && !packet.seen.is_initial_syn() {
        return Err(PassReason::NoConnection.into());
    }
    if !key.source.is_valid_source() || key.source == key.destination {
        return Err(PassReason::InvalidSource.into());
    }
    if packet.ttl <= 1 {
        return Err(PassReason::TtlExpired.into());
    }
    let settings = maps::SETTINGS.get(0).ok_or(DropReason::NoBackend)?;
    if connection::half_open() >= i64::from(settings.half_open_max) {
        return Err(DropReason::HalfOpenFull.into());
    }
    let service = maps::SERVICES.get(id).ok_or(DropReason::NoBackend)?;
    let (backend_id, backend) = scheduler::choose::<F>(key, id, service, settings).ok_or(DropReason::NoBackend)?;
    // Without an address of our own there is no way to the backend either.
    let keys = ReplyKeys::new(key, backend, service.forwarding, settings).ok_or(DropReason::NoRoute)?;
    connection::create(packet, id, backend_id, backend, keys)
}
