//! What differs between the IP families beyond how a header is read: how it is written, and which maps hold the addresses.

mod v4;
mod v6;

use aya_ebpf::bindings::bpf_fib_lookup;
use lb_common::{
    checksum::{Sum, TupleDelta},
    flow::FlowKey,
    interface::Interface,
    packet::{Extent, Ip, Network},
    settings::Settings,
    verdict::{Refusal, Verdict},
};

use crate::{
    context::Context,
    desk::Desk,
    maps::{Addresses, Backends, Connections, Fragments, Listeners, PortRanges, SnatAddresses},
    outcome::Outcome,
};

/// An IP family. The stages are generic over it.
///
/// Implemented by the address type.
pub(crate) trait Family: Ip {
    /// Length of the IP header without options or extensions.
    const HEADER: usize;
    /// Length of the longest packet that an ICMP error may be (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4 (c)).
    const MAX_ICMP_ERROR: usize;
    /// Bits of a fragment's identification.
    const ID_MASK: u32;
    /// Types of echo request and echo reply.
    const ECHO: EchoTypes;

    /// Reads the IP header of the packet on the desk. The outcome is a verdict, or no action at all.
    fn read<C: Context>(ctx: C, desk: &mut Desk<Self>) -> Outcome;

    /// Writes the addresses of `to` and a time to live into the header at `l3`; corrects the header checksum where there is one.
    fn rewrite<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, delta: &TupleDelta, ttl: u8) -> Result<(), Verdict>;

    /// Writes the identification of a fragment.
    fn rewrite_id<C: Context>(ctx: C, network: &Network<Self>, id: u32) -> Result<(), Verdict>;

    /// Writes the addresses of a quoted packet; returns what the change of everything but the addresses does to a sum over the header.
    fn rewrite_quoted<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, delta: &TupleDelta) -> Result<Sum, Verdict>;

    /// Whether the checksum of a quoted header is wrong.
    fn is_quoted_header_wrong<C: Context>(ctx: C, l3: usize) -> bool;

    /// The part of the ICMP checksum that is not in the message: the pseudo header over IPv6.
    fn icmp_pseudo_header(source: Self, destination: Self, length: u16) -> Sum;

    /// What a change of addresses does to the ICMP checksum.
    fn icmp_delta(delta: &TupleDelta) -> Sum;

    /// Writes IP and ICMP header of an error at `l3`, in front of the quoted packet. The ICMP checksum is left 0.
    fn write_icmp_error<C: Context>(
        ctx: C,
        l3: usize,
        source: Self,
        destination: Self,
        quoted: u16,
        refusal: Refusal,
    ) -> Result<(), Verdict>;

    /// The protocol, where fragments of different protocols may have equal identifications (RFC 791, section 3.2), else 0.
    fn fragment_protocol(protocol: u8) -> u8;

    /// The address of an interface that ICMP errors come from.
    fn of_interface(interface: &Interface) -> Self;

    /// Puts the addresses into the parameters of a routing lookup.
    fn set_fib_addresses(params: &mut bpf_fib_lookup, key: &FlowKey<Self>);

    /// Number of addresses in the `snat` pool.
    fn snat_pool(settings: &Settings) -> u32;

    fn listeners() -> &'static Listeners<Self>;
    fn port_ranges() -> &'static PortRanges<Self>;
    fn backends() -> &'static Backends<Self>;
    fn connections() -> &'static Connections<Self>;
    fn snat_addresses() -> &'static SnatAddresses<Self>;
    fn addresses() -> &'static Addresses<Self>;
    fn fragments() -> &'static Fragments<Self>;
}

/// [`Family::read`] for both.
#[inline(always)]
fn read<F: Family, C: Context>(ctx: C, desk: &mut Desk<F>) -> Outcome {
    match F::network(&ctx, desk.link.l3, Extent::Whole) {
        Ok(network) => {
            desk.network = network;
            Outcome::action(0)
        }
        Err(reason) => C::turn_away(reason).into(),
    }
}

/// Types of ICMP messages for an echo (ping).
pub(crate) struct EchoTypes {
    pub(crate) request: u8,
    pub(crate) reply: u8,
}

/// Implements what is one line per map and differs in the map's name alone.
macro_rules! maps {
    ($($function:ident: $kind:ident = $map:ident;)+) => {
        $(#[inline(always)]
        fn $function() -> &'static $crate::maps::$kind<Self> {
            &$crate::maps::$map
        })+
    };
}
pub(crate) use maps;
