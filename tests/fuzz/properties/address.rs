//! Addresses against the standard library and a loop over single bits.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::{
    Address as _,
    address::{V4, V6},
};

/// `data`: an address of 16 bytes, in what bits the other differs from it, a prefix length. IPv4 takes the first four bytes of each.
pub(crate) fn check(data: &[u8]) {
    let Some((&one, rest)) = data.split_first_chunk::<16>() else {
        return;
    };
    let Some((difference, &[prefix])) = rest.split_first_chunk::<16>() else {
        return;
    };
    let mut other = one;
    for (byte, difference) in other.iter_mut().zip(difference) {
        *byte ^= difference;
    }
    check_v6(one, other, prefix % 129);
    let first_four = |[a, b, c, d, ..]: [u8; 16]| [a, b, c, d];
    check_v4(first_four(one), first_four(other), prefix % 33);
}

fn check_v6(one: [u8; 16], other: [u8; 16], prefix: u8) {
    let address = V6::from_wire(one);
    assert_eq!(address.to_wire(), one, "bytes keep their order");
    assert_eq!(
        address.shares_prefix(V6::from_wire(other), prefix),
        prefix != 0 && common_bits(&one, &other) >= u32::from(prefix),
        "{one:?} and {other:?} in /{prefix}"
    );
    let ip = Ipv6Addr::from(one);
    assert_eq!(
        address.is_valid_source(),
        !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local()),
        "{ip}"
    );
}

fn check_v4(one: [u8; 4], other: [u8; 4], prefix: u8) {
    let address = V4::from_wire(one);
    assert_eq!(
        address.shares_prefix(V4::from_wire(other), prefix),
        prefix != 0 && common_bits(&one, &other) >= u32::from(prefix),
        "{one:?} and {other:?} in /{prefix}"
    );
    let ip = Ipv4Addr::from(one);
    let reserved = ip.octets()[0] == 0 || ip.octets()[0] >= 240;
    assert_eq!(
        address.is_valid_source(),
        !(reserved || ip.is_loopback() || ip.is_multicast()),
        "{ip}"
    );
}

/// How many leading bits are the same.
fn common_bits(one: &[u8], other: &[u8]) -> u32 {
    let bit = |bytes: &[u8], index: usize| bytes[index / 8] >> (7 - index % 8) & 1;
    let same = (0..one.len() * 8).take_while(|index| bit(one, *index) == bit(other, *index));
    same.map(|_| 1).sum()
}
