//! What differs between the IP families: the header, and which maps hold the addresses.

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    btf_maps::{Array, HashMap},
};
use lb_common::{
    Address,
    address::V4,
    backend::Backend,
    byte_order::Be16,
    checksum::{TupleDelta, update},
    connection::Connection,
    flow::{FlowKey, protocol},
    limits::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_HALF_OPEN, MAX_BACKENDS, MAX_LISTENERS, MAX_SNAT_ADDRESSES},
    service::ListenerKey,
    verdict::{PassReason, Verdict},
};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

use crate::{context::Context, maps};

type Listeners<A> = HashMap<ListenerKey<A>, u32, { MAX_LISTENERS as usize }>;
type Backends<A> = Array<Backend<A>, { MAX_BACKENDS as usize }>;
type Connections<A> =
    HashMap<FlowKey<A>, Connection<A>, { 2 * (DEFAULT_MAX_CONNECTIONS + DEFAULT_MAX_HALF_OPEN) as usize }>;
type SnatAddresses<A> = Array<A, { MAX_SNAT_ADDRESSES as usize }>;

/// What the stages must know of an IP header.
pub(crate) struct NetworkHeader<A> {
    /// Source address.
    pub(crate) source: A,
    /// Destination address.
    pub(crate) destination: A,
    /// [`protocol`] number.
    pub(crate) protocol: u8,
    /// Time to live, hop limit.
    pub(crate) ttl: u8,
    /// Length of the whole packet in bytes, as the header says it.
    pub(crate) length: u16,
    /// Where the L4 header begins, in bytes from the start of the frame.
    pub(crate) l4: usize,
}

/// An IP family. The stages are generic over it.
///
/// Implemented by the address type.
pub(crate) trait Family: Address {
    /// Reads and checks the IP header.
    fn parse<C: Context>(ctx: &C) -> Result<NetworkHeader<Self>, Verdict>;

    /// Writes the addresses of `to`, one hop less to live, and the header checksum where there is one.
    fn rewrite<C: Context>(ctx: &C, to: &FlowKey<Self>, delta: &TupleDelta) -> Result<(), Verdict>;

    /// Puts the addresses into the parameters of a routing lookup.
    fn set_fib_addresses(params: &mut bpf_fib_lookup, key: &FlowKey<Self>);

    fn listeners() -> &'static Listeners<Self>;
    fn backends() -> &'static Backends<Self>;
    fn connections() -> &'static Connections<Self>;
    fn snat_addresses() -> &'static SnatAddresses<Self>;
}

/// Fragment offset and the "more fragments" bit of the IPv4 header (RFC 791, section 3.1).
const FRAGMENT_MASK: u16 = 0x3fff;

/// `AF_INET`, as the routing lookup spells it.
const AF_INET: u8 = 2;

impl Family for V4 {
    #[inline(always)]
    fn parse<C: Context>(ctx: &C) -> Result<NetworkHeader<Self>, Verdict> {
        let header: *const Ipv4Hdr = ctx.at(EthHdr::LEN).ok_or(PassReason::Malformed)?;
        // SAFETY: `at` checked the bounds; the type is bytes, without alignment.
        let header = unsafe { &*header };
        let header_length = usize::from(header.vihl & 0x0f) * 4;
        let length = u16::from_be_bytes(header.tot_len);
        if header.vihl >> 4 != 4
            || header_length < Ipv4Hdr::LEN
            || usize::from(length) < header_length
            || EthHdr::LEN + usize::from(length) > ctx.length()
        {
            return Err(PassReason::Malformed.into());
        }
        if header.proto != protocol::TCP && header.proto != protocol::UDP {
            return Err(PassReason::NotTcpOrUdp.into());
        }
        if u16::from_be_bytes(header.frags) & FRAGMENT_MASK != 0 {
            return Err(PassReason::Fragment.into());
        }
        Ok(NetworkHeader {
            source: Self::from_wire(header.src_addr),
            destination: Self::from_wire(header.dst_addr),
            protocol: header.proto,
            ttl: header.ttl,
            length,
            l4: EthHdr::LEN + header_length,
        })
    }

    #[inline(always)]
    fn rewrite<C: Context>(ctx: &C, to: &FlowKey<Self>, delta: &TupleDelta) -> Result<(), Verdict> {
        let header: *mut Ipv4Hdr = ctx.still_at(EthHdr::LEN)?;
        // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment; nothing else refers to the packet.
        let header = unsafe { &mut *header };
        let before = Be16::from_wire([header.ttl, header.proto]);
        header.ttl -= 1;
        let after = Be16::from_wire([header.ttl, header.proto]);
        let delta = delta.addresses.add16(after.image()).sub16(before.image());
        header.check = update(u16::from_ne_bytes(header.check), delta).to_ne_bytes();
        header.src_addr = to.source.to_wire();
        header.dst_addr = to.destination.to_wire();
        Ok(())
    }

    #[inline(always)]
    fn set_fib_addresses(params: &mut bpf_fib_lookup, key: &FlowKey<Self>) {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = key.source.image();
        params.__bindgen_anon_4.ipv4_dst = key.destination.image();
    }

    #[inline(always)]
    fn listeners() -> &'static Listeners<Self> {
        &maps::LISTENERS_V4
    }

    #[inline(always)]
    fn backends() -> &'static Backends<Self> {
        &maps::BACKENDS_V4
    }

    #[inline(always)]
    fn connections() -> &'static Connections<Self> {
        &maps::CONNECTIONS_V4
    }

    #[inline(always)]
    fn snat_addresses() -> &'static SnatAddresses<Self> {
        &maps::SNAT_V4
    }
}
