//! Choosing the translation of a new connection: which tuple its replies will have.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use lb_common::{
    backend::Backend,
    byte_order::Be16,
    flow::FlowKey,
    limits::{MAX_SNAT_ADDRESSES, SNAT_PORT_TRIES},
    scheduler::source_hash,
    service::Forwarding,
    settings::{PortRange, Settings},
    verdict::DropReason,
};

use crate::family::Family;

/// The reply tuples that would do for a new connection, in order of preference.
///
/// `nat` has one: from the backend to the client. `full_nat` has one for every port of the pool: the client's own, then random ones
/// (RFC 6056, section 3.3.1).
pub(crate) struct ReplyKeys<F> {
    key: FlowKey<F>,
    translates_source: bool,
    ports: PortRange,
    host_ports: PortRange,
    tried: u32,
}

impl<F: Family> ReplyKeys<F> {
    /// Most keys that are tried.
    pub(crate) const TRIES: u32 = SNAT_PORT_TRIES;

    /// The candidates for a client's packet with the tuple `client` to `backend`; `None` while no source address is known.
    #[inline(always)]
    pub(crate) fn new(client: &FlowKey<F>, backend: &Backend<F>, forwarding: u8, settings: &Settings) -> Option<Self> {
        let translates_source = forwarding == Forwarding::FullNat as u8;
        let source = if translates_source {
            source_address::<F>(client, backend, settings)
        } else {
            client.source
        };
        if !source.is_valid_source() {
            return None;
        }
        Some(Self {
            key: FlowKey::new(
                (backend.address, backend.port),
                (source, client.source_port),
                client.protocol,
            ),
            translates_source,
            ports: settings.snat_ports,
            host_ports: settings.host_ports,
            tried: 0,
        })
    }

    /// The next candidate; `None` when nothing is left to try.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<FlowKey<F>> {
        let first = self.tried == 0;
        self.tried += 1;
        if !self.translates_source {
            return first.then_some(self.key);
        }
        let own = self.key.destination_port.to_native();
        if first && self.ports.contains(own) && !self.host_ports.contains(own) {
            return Some(self.key);
        }
        // SAFETY: takes nothing, returns a number.
        let random = unsafe { bpf_get_prandom_u32() };
        let port = self.ports.pick(random, self.host_ports)?;
        self.key.destination_port = Be16::new(port);
        Some(self.key)
    }

    /// Why a new connection is refused when every candidate is taken.
    #[inline(always)]
    pub(crate) const fn refusal(&self) -> DropReason {
        if self.translates_source {
            DropReason::PortsExhausted
        } else {
            DropReason::TupleTaken
        }
    }
}

/// The address that a backend sees: one of the pool, always the same for a client (RFC 4787, REQ-2), or this host's own.
#[inline(always)]
fn source_address<F: Family>(client: &FlowKey<F>, backend: &Backend<F>, settings: &Settings) -> F {
    if settings.snat_addresses == 0 {
        return backend.source;
    }
    let index = source_hash(client.source, settings.hash_seed) % settings.snat_addresses;
    F::snat_addresses()
        .get(index % MAX_SNAT_ADDRESSES)
        .copied()
        .unwrap_or(backend.source)
}
