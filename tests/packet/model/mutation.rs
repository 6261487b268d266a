//! Damaging frames.

use lb_tests::{
    checksum::Sum,
    layers::{self, IpPacket},
};
use rand::{RngExt as _, rngs::StdRng};

/// What a test run takes: an Ethernet header at least, and at most what is readable directly.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=3400;

/// A frame with one thing or a few wrong with it; `other` is spliced in at times.
pub(super) fn mutate(random: &mut StdRng, mut frame: Vec<u8>, other: &[u8]) -> Vec<u8> {
    match random.random_range(0..8) {
        0..=2 => {
            for _ in 0..random.random_range(1..=4) {
                let at = place(random, &frame);
                frame[at] ^= 1 << random.random_range(0..8);
            }
        }
        3 => {
            let at = place(random, &frame);
            frame[at] = random.random();
        }
        4 => frame.truncate(random.random_range(0..=frame.len())),
        5 => wrong_length(random, &mut frame),
        6 => {
            let keep = random.random_range(0..=frame.len());
            let from = random.random_range(0..=other.len());
            frame.truncate(keep);
            frame.extend(&other[from..]);
        }
        _ => {
            let at = place(random, &frame);
            let bytes: Vec<u8> = (0..random.random_range(1..=8)).map(|_| random.random()).collect();
            frame.splice(at..at, bytes);
        }
    }
    frame.resize(frame.len().clamp(*LENGTHS.start(), *LENGTHS.end()), 0);
    if random.random_bool(0.5) {
        mend_icmp_checksum(&mut frame);
    }
    frame
}

/// Mostly within the headers.
fn place(random: &mut StdRng, frame: &[u8]) -> usize {
    let end = if random.random_bool(0.8) { 90 } else { frame.len() };
    random.random_range(0..end.min(frame.len()))
}

/// Changes a length or an offset by a little, or wholly: of IPv4, of IPv6, of what may be UDP.
fn wrong_length(random: &mut StdRng, frame: &mut [u8]) {
    let l3 = layers::network(frame).map_or(14, |(_, l3)| l3);
    let at = l3 + [2, 4, 6, 20 + 4, 40 + 4, 20 + 12, 40 + 12][random.random_range(0..7)];
    let Some(field) = frame.get_mut(at..at + 2) else {
        return;
    };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let new = if random.random_bool(0.7) {
        old.wrapping_add(random.random_range(0..40)).wrapping_sub(20)
    } else {
        random.random()
    };
    field.copy_from_slice(&new.to_be_bytes());
}

/// Makes the checksum of an ICMP message right, so that what else is wrong with it is found.
fn mend_icmp_checksum(frame: &mut [u8]) {
    let Some((_, l3)) = layers::network(frame) else {
        return;
    };
    let Ok(packet) = IpPacket::read(&frame[l3..]) else {
        return;
    };
    let is_icmp = matches!(packet.protocol, layers::ICMP | layers::ICMPV6);
    if !is_icmp || packet.missing != 0 || packet.segment.len() < 4 {
        return;
    }
    let at = l3 + packet.header.len() + 2;
    let mut sum = Sum::default().plus(&packet.segment[..2]).plus(&packet.segment[4..]);
    if packet.source.is_ipv6() {
        let length = u32::try_from(packet.segment.len()).expect("a packet");
        sum = sum.plus_pseudo_header(packet.source, packet.destination, packet.protocol, length);
    }
    frame[at..at + 2].copy_from_slice(&sum.checksum().to_be_bytes());
}
