//! IPv6: RFC 8200, and ICMPv6 after RFC 4443.

use aya_ebpf::bindings::bpf_fib_lookup;
use lb_common::{
    Address as _,
    address::V6,
    byte_order::{Be16, Be32},
    checksum::{Sum, TupleDelta},
    flow::{FlowKey, protocol},
    interface::Interface,
    packet::{Even, ICMP_HEADER, Network},
    settings::Settings,
    verdict::{Refusal, Verdict},
};
use network_types::ip::Ipv6Hdr;

use super::{EchoTypes, Family, maps};
use crate::{context::Context, desk::Desk, outcome::Outcome};

/// `AF_INET6`, as the routing lookup spells it.
const AF_INET6: u8 = 10;
/// Hop limit of what we send ourselves.
const HOP_LIMIT: u8 = 64;

impl Family for V6 {
    const HEADER: usize = Ipv6Hdr::LEN;
    const MAX_ICMP_ERROR: usize = 1280;
    const ID_MASK: u32 = u32::MAX;
    const ECHO: EchoTypes = EchoTypes {
        request: 128,
        reply: 129,
    };

    /// A subprogram: each length of the chain of extension headers is a path to the verifier, and all end here.
    #[inline(never)]
    fn read<C: Context>(ctx: C, desk: &mut Desk<Self>) -> Outcome {
        super::read(ctx, desk)
    }

    #[inline(always)]
    fn rewrite<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, _delta: &TupleDelta, ttl: u8) -> Result<(), Verdict> {
        let header: *mut Even<Ipv6Hdr> = ctx.still_at(l3)?;
        // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment; nothing else refers to the packet.
        let Even(header) = unsafe { &mut *header };
        header.hop_limit = ttl;
        header.src_addr = to.source.to_wire();
        header.dst_addr = to.destination.to_wire();
        Ok(())
    }

    #[inline(always)]
    fn rewrite_id<C: Context>(ctx: C, network: &Network<Self>, id: u32) -> Result<(), Verdict> {
        let field: *mut [u8; 4] = ctx.still_at(network.id_at)?;
        // SAFETY: `still_at` checked the bounds; bytes have no alignment.
        unsafe { *field = id.to_be_bytes() };
        Ok(())
    }

    #[inline(always)]
    fn rewrite_quoted<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, _delta: &TupleDelta) -> Result<Sum, Verdict> {
        let header: *mut Even<Ipv6Hdr> = ctx.still_at(l3)?;
        // SAFETY: as in `rewrite`.
        let Even(header) = unsafe { &mut *header };
        header.src_addr = to.source.to_wire();
        header.dst_addr = to.destination.to_wire();
        Ok(Sum::ZERO)
    }

    #[inline(always)]
    fn is_quoted_header_wrong<C: Context>(_ctx: C, _l3: usize) -> bool {
        false
    }

    #[inline(always)]
    fn icmp_pseudo_header(source: Self, destination: Self, length: u16) -> Sum {
        let sum = destination.add_to(source.add_to(Sum::ZERO));
        sum.add16(Be16::new(u16::from(protocol::ICMP_V6)).image())
            .add16(Be16::new(length).image())
    }

    #[inline(always)]
    fn icmp_delta(delta: &TupleDelta) -> Sum {
        delta.addresses
    }

    #[inline(always)]
    fn write_icmp_error<C: Context>(
        ctx: C,
        l3: usize,
        source: Self,
        destination: Self,
        quoted: u16,
        refusal: Refusal,
    ) -> Result<(), Verdict> {
        #[expect(clippy::cast_possible_truncation, reason = "a small header")]
        let length = quoted + ICMP_HEADER as u16;
        let header = Ipv6Hdr {
            vcf: [0x60, 0, 0, 0],
            payload_len: length.to_be_bytes(),
            next_hdr: protocol::ICMP_V6,
            hop_limit: HOP_LIMIT,
            src_addr: source.to_wire(),
            dst_addr: destination.to_wire(),
        };
        let kind = if refusal.is_ttl_expired() { 3 } else { 2 };
        let [high, low] = refusal.mtu().to_be_bytes();
        // SAFETY: `still_at` checked the bounds; both types are bytes, without alignment.
        unsafe {
            *ctx.still_at::<Ipv6Hdr>(l3)? = header;
            *ctx.still_at::<[u8; ICMP_HEADER]>(l3 + Ipv6Hdr::LEN)? = [kind, 0, 0, 0, 0, 0, high, low];
        }
        Ok(())
    }

    #[inline(always)]
    fn fragment_protocol(_protocol: u8) -> u8 {
        0
    }

    #[inline(always)]
    fn of_interface(interface: &Interface) -> Self {
        interface.v6
    }

    #[inline(always)]
    fn set_fib_addresses(params: &mut bpf_fib_lookup, key: &FlowKey<Self>) {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = key.source.words().map(Be32::image);
        params.__bindgen_anon_4.ipv6_dst = key.destination.words().map(Be32::image);
    }

    #[inline(always)]
    fn snat_pool(settings: &Settings) -> u32 {
        settings.snat_addresses_v6
    }

    maps! {
        listeners: Listeners = LISTENERS_V6;
        port_ranges: PortRanges = PORT_RANGES_V6;
        backends: Backends = BACKENDS_V6;
        connections: Connections = CONNECTIONS_V6;
        snat_addresses: SnatAddresses = SNAT_V6;
        addresses: Addresses = ADDRESSES_V6;
        fragments: Fragments = FRAGMENTS_V6;
    }
}
