//! Admitting a new connection: whom it is for, and whether it may be.

use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::{
    flow::{FlowKey, protocol},
    packet::Packet,
    port_prefix::PortPrefix,
    service::{Forwarding, ListenerKey},
    settings::Settings,
    verdict::{DropReason, PassReason, Refusal, Verdict},
};

use crate::{connection, desk::Desk, family::Family, maps, nat::ReplyKeys, outcome::Outcome, route::Route, scheduler};

/// Opens a connection for the packet on the desk, which belongs to none, and lays its route there.
#[inline(never)]
pub(crate) fn admit<F: Family>(desk: &mut Desk<F>) -> Outcome {
    Outcome::from(open(&desk.packet, &mut desk.keys, &mut desk.route).map(|()| 0))
}

#[inline(always)]
fn open<F: Family>(packet: &Packet<F>, keys: &mut ReplyKeys<F>, route: &mut Route<F>) -> Result<(), Verdict> {
    let key = &packet.key;
    let settings = maps::SETTINGS.get(0).ok_or(DropReason::NoBackend)?;
    let id = listener::<F>(key, settings).ok_or(PassReason::NoListener)?;
    if key.protocol == protocol::TCP && !packet.seen.is_initial_syn() {
        return Err(PassReason::NoConnection.into());
    }
    if !key.source.is_valid_source() || key.source == key.destination {
        return Err(PassReason::InvalidSource.into());
    }
    let service = maps::SERVICES.get(id).ok_or(DropReason::NoBackend)?;
    let direct = service.forwarding == Forwarding::Dsr as u8;
    if packet.ttl <= 1 && !direct {
        return Err(Refusal::TTL_EXPIRED.into());
    }
    if connection::half_open() >= i64::from(settings.half_open_max) {
        return Err(DropReason::HalfOpenFull.into());
    }
    let (backend_id, backend) = scheduler::choose::<F>(key, id, service, settings).ok_or(DropReason::NoBackend)?;
    let owner = connection::Owner {
        service: id,
        backend: backend_id,
    };
    if direct {
        return connection::create_direct(packet, &owner, backend, route);
    }
    // Without an address of our own there is no way to the backend either.
    *keys = ReplyKeys::new(key, backend, service.forwarding, settings).ok_or(DropReason::NoRoute)?;
    connection::create(packet, &owner, backend, keys, route)
}

/// The service that listens for a packet.
#[inline(always)]
fn listener<F: Family>(key: &FlowKey<F>, settings: &Settings) -> Option<u32> {
    let single = ListenerKey::new(key.destination, key.destination_port, key.protocol);
    // SAFETY: the value is one word, copied at once; a listener that is removed meanwhile served this packet last.
    if let Some(id) = unsafe { F::listeners().get(single) } {
        return Some(*id);
    }
    if settings.port_prefixes == 0 {
        return None;
    }
    let port = PortPrefix::new(key.destination, key.protocol, key.destination_port);
    F::port_ranges()
        .get(&Key::new(PortPrefix::<F>::bits(16), port))
        .copied()
}
