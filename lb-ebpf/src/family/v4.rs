//! IPv4: RFC 791, and ICMP after RFC 792.

use aya_ebpf::bindings::bpf_fib_lookup;
use lb_common::{
    address::V4,
    byte_order::Be16,
    checksum::{Sum, TupleDelta, sum_bytes, update},
    flow::{FlowKey, protocol},
    interface::Interface,
    packet::{Even, ICMP_HEADER, Network},
    settings::Settings,
    verdict::{Refusal, Verdict},
};
use network_types::ip::Ipv4Hdr;

use super::{EchoTypes, Family, maps};
use crate::{context::Context, desk::Desk, outcome::Outcome};

/// `AF_INET`, as the routing lookup spells it.
const AF_INET: u8 = 2;
/// Time to live of what we send ourselves (RFC 1700, "IP time to live").
const TTL: u8 = 64;
/// The "don't fragment" bit, with which the identification means nothing (RFC 6864, section 4).
const DONT_FRAGMENT: u16 = 0x4000;
/// Precedence "internetwork control" of ICMP errors (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;

impl Family for V4 {
    const HEADER: usize = Ipv4Hdr::LEN;
    const MAX_ICMP_ERROR: usize = 576;
    const ID_MASK: u32 = 0xffff;
    const ECHO: EchoTypes = EchoTypes { request: 8, reply: 0 };

    #[inline(always)]
    fn read<C: Context>(ctx: C, desk: &mut Desk<Self>) -> Outcome {
        super::read(ctx, desk)
    }

    #[inline(always)]
    fn rewrite<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, delta: &TupleDelta, ttl: u8) -> Result<(), Verdict> {
        let header: *mut Even<Ipv4Hdr> = ctx.still_at(l3)?;
        // SAFETY: `still_at` checked the bounds; the type is bytes, without alignment; nothing else refers to the packet.
        let Even(header) = unsafe { &mut *header };
        let before = Be16::from_wire([header.ttl, header.proto]);
        header.ttl = ttl;
        let after = Be16::from_wire([header.ttl, header.proto]);
        let delta = delta.addresses.add16(after.image()).sub16(before.image());
        header.check = update(u16::from_ne_bytes(header.check), delta).to_ne_bytes();
        header.src_addr = to.source.to_wire();
        header.dst_addr = to.destination.to_wire();
        Ok(())
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits over IPv4")]
    fn rewrite_id<C: Context>(ctx: C, network: &Network<Self>, id: u32) -> Result<(), Verdict> {
        let header: *mut Even<Ipv4Hdr> = ctx.still_at(network.l3)?;
        // SAFETY: as in `rewrite`.
        let Even(header) = unsafe { &mut *header };
        let (before, after) = (Be16::from_wire(header.id), Be16::new(id as u16));
        let delta = Sum::ZERO.add16(after.image()).sub16(before.image());
        header.check = update(u16::from_ne_bytes(header.check), delta).to_ne_bytes();
        header.id = after.to_wire();
        Ok(())
    }

    #[inline(always)]
    fn rewrite_quoted<C: Context>(ctx: C, l3: usize, to: &FlowKey<Self>, delta: &TupleDelta) -> Result<Sum, Verdict> {
        let header: *mut Even<Ipv4Hdr> = ctx.still_at(l3)?;
        // SAFETY: as in `rewrite`.
        let Even(header) = unsafe { &mut *header };
        let before = u16::from_ne_bytes(header.check);
        let after = update(before, delta.addresses);
        header.check = after.to_ne_bytes();
        header.src_addr = to.source.to_wire();
        header.dst_addr = to.destination.to_wire();
        Ok(Sum::ZERO.add16(after).sub16(before))
    }

    #[inline(always)]
    fn is_quoted_header_wrong<C: Context>(ctx: C, l3: usize) -> bool {
        let Some(header) = ctx.view::<[u8; Ipv4Hdr::LEN]>(l3) else {
            return true;
        };
        let mut sum = sum_bytes(header);
        let options = usize::from(header[0] & 0x0f) * 4 - Ipv4Hdr::LEN;
        for word in 0..10 {
            if word * 4 >= options {
                break;
            }
            let Some(bytes) = ctx.view::<[u8; 4]>(l3 + Ipv4Hdr::LEN + word * 4) else {
                return true;
            };
            sum = sum.add32(u32::from_ne_bytes(*bytes));
        }
        sum.checksum() != 0
    }

    #[inline(always)]
    fn icmp_pseudo_header(_source: Self, _destination: Self, _length: u16) -> Sum {
        Sum::ZERO
    }

    #[inline(always)]
    fn icmp_delta(_delta: &TupleDelta) -> Sum {
        Sum::ZERO
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
        #[expect(clippy::cast_possible_truncation, reason = "two small headers")]
        let length = quoted + (Ipv4Hdr::LEN + ICMP_HEADER) as u16;
        let mut header = Ipv4Hdr {
            vihl: 0x45,
            tos: INTERNETWORK_CONTROL,
            tot_len: length.to_be_bytes(),
            id: [0; 2],
            frags: DONT_FRAGMENT.to_be_bytes(),
            ttl: TTL,
            proto: protocol::ICMP,
            check: [0; 2],
            src_addr: source.to_wire(),
            dst_addr: destination.to_wire(),
        };
        // SAFETY: 20 bytes of initialised bytes.
        let bytes = unsafe { &*(&raw const header).cast::<[u8; Ipv4Hdr::LEN]>() };
        header.check = sum_bytes(bytes).checksum().to_ne_bytes();
        let (kind, code) = if refusal.is_ttl_expired() { (11, 0) } else { (3, 4) };
        let [high, low] = refusal.mtu().to_be_bytes();
        // SAFETY: `still_at` checked the bounds; both types are bytes, without alignment.
        unsafe {
            *ctx.still_at::<Ipv4Hdr>(l3)? = header;
            *ctx.still_at::<[u8; ICMP_HEADER]>(l3 + Ipv4Hdr::LEN)? = [kind, code, 0, 0, 0, 0, high, low];
        }
        Ok(())
    }

    #[inline(always)]
    fn fragment_protocol(protocol: u8) -> u8 {
        protocol
    }

    #[inline(always)]
    fn of_interface(interface: &Interface) -> Self {
        interface.v4
    }

    #[inline(always)]
    fn set_fib_addresses(params: &mut bpf_fib_lookup, key: &FlowKey<Self>) {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = key.source.image();
        params.__bindgen_anon_4.ipv4_dst = key.destination.image();
    }

    #[inline(always)]
    fn snat_pool(settings: &Settings) -> u32 {
        settings.snat_addresses_v4
    }

    maps! {
        listeners: Listeners = LISTENERS_V4;
        port_ranges: PortRanges = PORT_RANGES_V4;
        backends: Backends = BACKENDS_V4;
        connections: Connections = CONNECTIONS_V4;
        snat_addresses: SnatAddresses = SNAT_V4;
        addresses: Addresses = ADDRESSES_V4;
        fragments: Fragments = FRAGMENTS_V4;
    }
}
