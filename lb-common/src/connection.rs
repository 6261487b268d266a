//! Tracked connections: the entry, what is remembered of each direction, and which phase of life follows from it.

use crate::{
    address::{V4, V6},
    backend::NextHop,
    flow::FlowKey,
};

/// One direction of a tracked connection. A connection is two entries, each keyed by the tuple of the packets it matches and each
/// holding the other's key.
///
/// The other's key is also the translation: a packet that matches this entry leaves with the *reversed* key of its twin, because
/// the answer to what we send is what the twin waits for. So there is no second place in which an address could disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Connection<A> {
    /// Key of the entry for the opposite direction.
    pub twin: FlowKey<A>,
    /// When this direction last saw a packet: nanoseconds of `CLOCK_MONOTONIC_COARSE`, written at most once a second.
    pub last_seen: u64,
    /// The way back to the client, learned from the client's latest packet. The reply entry's is used; the forward entry's tells
    /// whether it changed.
    pub client: NextHop,
    /// [`Seen`] bits of this direction.
    pub seen: u32,
    /// Service id.
    pub service: u32,
    /// Backend id. An id is not given to another server while an entry names it.
    pub backend: u32,
    /// A [`Direction`] number.
    pub direction: u32,
}

const _: () = assert!(size_of::<Connection<V4>>() == 64);
const _: () = assert!(size_of::<Connection<V6>>() == 88);

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// From client to backend.
    Forward = 0,
    /// From backend to client.
    Reply = 1,
    /// From client to backend, of a connection whose replies do not pass here (`dsr`). It has no other entry; its `twin` is its own
    /// key reversed, so that nothing is translated.
    Direct = 2,
}

impl Direction {
    /// The direction with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Forward),
            1 => Some(Self::Reply),
            2 => Some(Self::Direct),
            _ => None,
        }
    }
}

/// What one direction of a connection has sent so far, as a set of bits. It only grows, until a client starts anew on what is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen(pub u32);

impl Seen {
    /// A TCP SYN.
    pub const SYN: u32 = 1 << 0;
    /// A TCP ACK, or any UDP packet.
    pub const ACK: u32 = 1 << 1;
    /// A TCP FIN.
    pub const FIN: u32 = 1 << 2;
    /// A TCP RST.
    pub const RST: u32 = 1 << 3;
    /// Nothing that was sent: one CPU is removing this connection, and no other may.
    pub const ENDED: u32 = 1 << 4;

    /// Whether any of `bits` was seen.
    #[inline(always)]
    pub const fn any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// From the flag byte of a TCP header (RFC 9293, section 3.1).
    #[inline(always)]
    pub const fn from_tcp_flags(flags: u8) -> Self {
        // Position of each bit in the header.
        const FIN: u8 = 0x01;
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        let mut seen = 0;
        if flags & SYN != 0 {
            seen |= Self::SYN;
        }
        if flags & ACK != 0 {
            seen |= Self::ACK;
        }
        if flags & FIN != 0 {
            seen |= Self::FIN;
        }
        if flags & RST != 0 {
            seen |= Self::RST;
        }
        Self(seen)
    }

    /// Of a UDP packet.
    pub const UDP: Self = Self(Self::ACK);

    /// Whether these are the flags of a client that opens a connection: SYN alone.
    #[inline(always)]
    pub const fn is_initial_syn(self) -> bool {
        self.0 == Self::SYN
    }
}

/// The phase of a connection's life, which decides its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet confirmed by both sides: TCP before the client's ACK, UDP before the backend's first packet.
    HalfOpen,
    /// Confirmed by both sides. A half-closed TCP connection still is: it may carry data for hours.
    Established,
    /// TCP after a FIN of both sides, or after an RST of either. An RST may be forged, so it shortens and does not end
    /// (RFC 7857, section 2).
    Closing,
}

/// The phase that follows from what both directions have sent.
#[inline(always)]
pub const fn phase(forward: Seen, reply: Seen) -> Phase {
    if forward.any(Seen::RST) || reply.any(Seen::RST) {
        return Phase::Closing;
    }
    if forward.any(Seen::FIN) && reply.any(Seen::FIN) {
        return Phase::Closing;
    }
    if forward.any(Seen::ACK) && reply.any(Seen::SYN | Seen::ACK) {
        return Phase::Established;
    }
    Phase::HalfOpen
}

/// The phase of a connection of which only the client's packets are seen (`dsr`): what the backend must have said for the client to
/// say this. A FIN may be the first of two; data of the backend is still on its way without us, so it shortens nothing for it.
#[inline(always)]
pub const fn phase_of_direct(forward: Seen) -> Phase {
    if forward.any(Seen::RST | Seen::FIN) {
        return Phase::Closing;
    }
    if forward.any(Seen::ACK) {
        return Phase::Established;
    }
    Phase::HalfOpen
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps (64 = 16 + 8 + 24 + 4 * 4), every bit pattern is a value.
unsafe impl aya::Pod for Connection<V4> {}
#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps (88 = 40 + 8 + 24 + 4 * 4), every bit pattern is a value.
unsafe impl aya::Pod for Connection<V6> {}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x01;
    const RST: u8 = 0x04;

    /// Plays packets, `>` from the client and `<` from the backend, and returns the phase after each.
    fn play(packets: &[(char, u8)]) -> Vec<Phase> {
        let (mut forward, mut reply) = (Seen::default(), Seen::default());
        packets
            .iter()
            .map(|(direction, flags)| {
                let side = if *direction == '>' { &mut forward } else { &mut reply };
                side.0 |= Seen::from_tcp_flags(*flags).0;
                phase(forward, reply)
            })
            .collect()
    }

    #[test]
    fn handshake_is_complete_with_the_clients_ack() {
        assert_eq!(
            play(&[('>', SYN), ('>', SYN), ('<', SYN | ACK), ('>', ACK)]),
            [Phase::HalfOpen, Phase::HalfOpen, Phase::HalfOpen, Phase::Established]
        );
    }

    #[test]
    fn half_closed_connection_stays_established() {
        assert_eq!(
            play(&[
                ('>', SYN),
                ('<', SYN | ACK),
                ('>', ACK),
                ('>', FIN | ACK),
                ('<', ACK),
                ('<', FIN | ACK)
            ])[3..],
            [Phase::Established, Phase::Established, Phase::Closing]
        );
    }

    #[test]
    fn reset_of_either_side_starts_closing() {
        assert_eq!(play(&[('>', SYN), ('<', RST | ACK)]).pop(), Some(Phase::Closing));
        assert_eq!(
            play(&[('>', SYN), ('<', SYN | ACK), ('>', ACK), ('>', RST)]).pop(),
            Some(Phase::Closing)
        );
    }

    #[test]
    fn udp_is_established_with_the_first_answer() {
        assert_eq!(phase(Seen::UDP, Seen::default()), Phase::HalfOpen);
        assert_eq!(phase(Seen::UDP, Seen::UDP), Phase::Established);
    }

    #[test]
    fn direct_connection_is_judged_by_the_client_alone() {
        assert_eq!(phase_of_direct(Seen(Seen::SYN)), Phase::HalfOpen);
        assert_eq!(phase_of_direct(Seen(Seen::SYN | Seen::ACK)), Phase::Established);
        assert_eq!(phase_of_direct(Seen::UDP), Phase::Established);
        assert_eq!(phase_of_direct(Seen(Seen::SYN | Seen::ACK | Seen::FIN)), Phase::Closing);
        assert_eq!(phase_of_direct(Seen(Seen::SYN | Seen::RST)), Phase::Closing);
    }

    #[test]
    fn only_a_bare_syn_opens_a_connection() {
        assert!(Seen::from_tcp_flags(SYN).is_initial_syn());
        // ECN setup SYN (RFC 3168, section 6.1.1) carries ECE and CWR as well.
        assert!(Seen::from_tcp_flags(SYN | 0xc0).is_initial_syn());
        for flags in [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, FIN, 0xff] {
            assert!(!Seen::from_tcp_flags(flags).is_initial_syn(), "flags {flags:#04x}");
        }
    }
}
