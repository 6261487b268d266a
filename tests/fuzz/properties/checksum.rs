//! Incremental checksums against the sum over all bytes, as RFC 1071 has it.

use lb_common::{
    Address,
    address::{V4, V6},
    byte_order::Be16,
    checksum::{TupleDelta, is_partial, pseudo_header, sum_bytes, update, update_udp},
    flow::{FlowKey, protocol},
};

use crate::rfc_1071::sum;

/// `data`: a byte whose lowest bit says IPv6 and whose next one says UDP, a checksum field, a tuple (addresses, then ports), the one
/// that replaces it, and the rest of the packet.
pub(crate) fn check(data: &[u8]) {
    let Some((&[kind, a, b], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let (field, is_udp) = ([a, b], kind & 2 != 0);
    if kind & 1 == 0 {
        check_family::<V4, 4, 12>(|bytes| V4::from_wire(*bytes), is_udp, field, rest);
    } else {
        check_family::<V6, 16, 36>(|bytes| V6::from_wire(*bytes), is_udp, field, rest);
    }
}

/// One packet with one tuple.
struct Packet<'a, A> {
    key: FlowKey<A>,
    /// The pseudo header as bytes.
    pseudo: Vec<u8>,
    ports: &'a [u8],
    payload: &'a [u8],
}

impl<A> Packet<'_, A> {
    /// All that the checksum covers.
    fn covered(&self) -> Vec<u8> {
        [&self.pseudo, self.ports, self.payload].concat()
    }
}

/// `ADDRESS` bytes an address has, `TUPLE` two of them with two ports.
fn check_family<A: Address, const ADDRESS: usize, const TUPLE: usize>(
    read: fn(&[u8; ADDRESS]) -> A,
    is_udp: bool,
    field: [u8; 2],
    data: &[u8],
) {
    let Some((from, rest)) = data.split_first_chunk::<TUPLE>() else {
        return;
    };
    let Some((to, payload)) = rest.split_first_chunk::<TUPLE>() else {
        return;
    };
    let Ok(length) = u16::try_from(4 + payload.len()) else {
        return;
    };
    let protocol = if is_udp { protocol::UDP } else { protocol::TCP };
    let packet = |tuple| packet(read, protocol, length, tuple, payload);
    let (Some(from), Some(to)) = (packet(from), packet(to)) else {
        return;
    };
    check_sums(&from, length);
    check_update(&from, &to, u16::from_ne_bytes(field), is_udp);
}

fn packet<'a, A: Address, const ADDRESS: usize>(
    read: fn(&[u8; ADDRESS]) -> A,
    protocol: u8,
    length: u16,
    tuple: &'a [u8],
    payload: &'a [u8],
) -> Option<Packet<'a, A>> {
    let (source, rest) = tuple.split_first_chunk::<ADDRESS>()?;
    let (destination, ports) = rest.split_first_chunk::<ADDRESS>()?;
    let &[a, b, c, d] = ports else { return None };
    let [source_port, destination_port] = [[a, b], [c, d]].map(Be16::from_wire);
    Some(Packet {
        key: FlowKey::new(
            (read(source), source_port),
            (read(destination), destination_port),
            protocol,
        ),
        pseudo: [source, destination, &[0, protocol][..], &length.to_be_bytes()].concat(),
        ports,
        payload,
    })
}

/// Sums of whole byte strings, and of the pseudo header.
fn check_sums<A: Address>(packet: &Packet<'_, A>, length: u16) {
    assert_eq!(sum_bytes(packet.payload).checksum(), reference(packet.payload));
    assert_eq!(sum_bytes(&packet.covered()).checksum(), reference(&packet.covered()));
    let pseudo = pseudo_header(&packet.key, length);
    assert_eq!(pseudo.checksum(), reference(&packet.pseudo));
    assert!(is_partial(!reference(&packet.pseudo), pseudo));
}

/// A right field becomes the right one, a wrong one stays wrong by the same amount.
fn check_update<A: Address>(from: &Packet<'_, A>, to: &Packet<'_, A>, field: u16, is_udp: bool) {
    let delta = TupleDelta::between(&from.key, &to.key);
    let (old, new) = (reference(&from.covered()), reference(&to.covered()));
    assert_eq!(update(old, delta.all()), new, "a right checksum");
    assert_eq!(
        error(update(field, delta.all()), new),
        error(field, old),
        "a wrong checksum"
    );

    // A sender that leaves the work to its network card writes the sum of the pseudo header: of that, the addresses change.
    let partial = !update(reference(&from.pseudo), delta.addresses);
    assert_eq!(partial, !reference(&to.pseudo), "an unfinished checksum");

    if is_udp {
        let sent = |checksum: u16| if checksum == 0 { 0xffff } else { checksum };
        assert_eq!(update_udp(sent(old), delta.all()), sent(new), "a right checksum of UDP");
        assert_eq!(update_udp(0, delta.all()), 0, "no checksum stays none");
        assert_eq!(
            field != 0,
            update_udp(field, delta.all()) != 0,
            "none is not made of one"
        );
    }
}

/// How far a field is from the right one; both zeros of one's complement are the same.
fn error(field: u16, right: u16) -> u32 {
    (u32::from(u16::from_be(field)) + 0xffff - u32::from(u16::from_be(right))) % 0xffff
}

/// The checksum of `bytes` as it stands in memory.
fn reference(bytes: &[u8]) -> u16 {
    !sum(bytes).to_be()
}
