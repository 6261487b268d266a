//! Choosing the translation of a new connection: which tuple its replies will have.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use lb_common::{
    backend::Backend,
    byte_order::Be16,
    flow::FlowKey,
    limits::{MAX_SNAT_ADDRESSES, SNAT_PORT_TRIES, SNAT_PORT_WALK},
    scheduler::source_hash,
    service::Forwarding,
    settings::{PortPool, Settings},
    verdict::DropReason,
};

use crate::family::Family;

/// The reply tuples that would do for a new connection, in order of preference.
///
/// First the client's own address and port, for `nat` where the reply then comes back through here. Then, for `full_nat` and for what `nat`
/// can't do, an address of this host with one port of the pool after the other: the client's own, random ones, and adjacent ones from a
/// random one on (RFC 6056, section 3.3.1).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ReplyKeys<F> {
    key: FlowKey<F>,
    client: F,
    /// The translated source; not valid while none is known.
    source: F,
    pool: PortPool,
    /// Which candidate is next.
    turn: u32,
    /// The number from which the walk over adjacent ports begins.
    start: u32,
    /// What is known beforehand, as bits.
    traits: u32,
}

/// Bits of `ReplyKeys::traits`: the service would leave the client's address as it is (`nat`); there are addresses and ports to translate
/// to; the client's own port is one of them.
const MAY_STAY: u32 = 1 << 0;
const CAN_TRANSLATE: u32 = 1 << 1;
const OWN_PORT_USABLE: u32 = 1 << 2;

/// Turns of [`ReplyKeys`]: the client itself, its port at the translated source, random ports, adjacent ports.
const UNTRANSLATED: u32 = 0;
const OWN_PORT: u32 = 1;
const RANDOM: u32 = 2;
const WALK: u32 = RANDOM + SNAT_PORT_TRIES;

impl<F: Family> ReplyKeys<F> {
    /// Most keys that are tried.
    pub(crate) const TRIES: u32 = WALK + SNAT_PORT_WALK;

    /// The candidates for a client's packet with the tuple `client` to `backend`; `None` while no source address is known.
    #[inline(always)]
    pub(crate) fn new(client: &FlowKey<F>, backend: &Backend<F>, forwarding: u8, settings: &Settings) -> Option<Self> {
        let pool = PortPool::new(settings.snat_ports, settings.host_ports);
        let source = source_address::<F>(client, backend, settings);
        let mut traits = 0;
        if forwarding != Forwarding::FullNat as u8 {
            traits |= MAY_STAY;
        }
        if source.is_valid_source() && !pool.is_empty() {
            traits |= CAN_TRANSLATE;
        }
        if pool.contains(client.source_port.to_native()) {
            traits |= OWN_PORT_USABLE;
        }
        let must_translate = traits & MAY_STAY == 0 || bypasses_us(client.source, backend);
        if must_translate && traits & CAN_TRANSLATE == 0 {
            return None;
        }
        let port = if backend.port.image() == 0 {
            client.destination_port
        } else {
            backend.port
        };
        Some(Self {
            key: FlowKey::new(
                (backend.address, port),
                (client.source, client.source_port),
                client.protocol,
            ),
            client: client.source,
            source,
            pool,
            turn: if must_translate { OWN_PORT } else { UNTRANSLATED },
            // Below the middle, so that the walk does not wrap around at the end of the numbers.
            start: random() >> 1,
            traits,
        })
    }

    /// Goes to the next candidate; `false` when nothing is left to try.
    #[inline(always)]
    pub(crate) fn advance(&mut self) -> bool {
        let turn = self.turn;
        self.turn += 1;
        if turn == UNTRANSLATED {
            return true;
        }
        if self.traits & CAN_TRANSLATE == 0 {
            return false;
        }
        self.key.destination = self.source;
        if turn == OWN_PORT && self.traits & OWN_PORT_USABLE != 0 {
            return true;
        }
        let number = if turn < WALK { random() } else { self.start + turn };
        self.key.destination_port = Be16::new(self.pool.pick(number));
        true
    }

    /// The current candidate.
    #[inline(always)]
    pub(crate) const fn current(&self) -> &FlowKey<F> {
        &self.key
    }

    /// Why a new connection is refused when every candidate is taken.
    #[inline(always)]
    pub(crate) const fn refusal(&self) -> DropReason {
        if self.traits & CAN_TRANSLATE != 0 {
            DropReason::PortsExhausted
        } else {
            DropReason::TupleTaken
        }
    }

    /// Whether the current candidate names another source than the client's own, though the service is `nat`.
    #[inline(always)]
    pub(crate) fn is_rescued(&self) -> bool {
        self.traits & MAY_STAY != 0 && self.key.destination != self.client
    }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_get_prandom_u32() }
}

/// Whether a backend would answer this client without us: the client is the backend itself, or sits in a network that the backend is
/// connected to (hairpin, one-arm).
#[inline(always)]
fn bypasses_us<F: Family>(client: F, backend: &Backend<F>) -> bool {
    client == backend.address || client.shares_prefix(backend.address, backend.on_link)
}

/// The address that a backend sees: one of the pool, always the same for a client (RFC 4787, REQ-2), or this host's own.
#[inline(always)]
fn source_address<F: Family>(client: &FlowKey<F>, backend: &Backend<F>, settings: &Settings) -> F {
    let pool = F::snat_pool(settings);
    if pool == 0 {
        return backend.source;
    }
    let index = source_hash(client.source, settings.hash_seed) % pool;
    F::snat_addresses()
        .get(index % MAX_SNAT_ADDRESSES)
        .copied()
        .unwrap_or(backend.source)
}
