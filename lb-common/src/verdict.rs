//! What the program decided for a packet, and why.
//!
//! One list of reasons serves the counters, the metrics' labels, the commands and the documentation. Numbers are append-only and
//! never used again: they index a map that outlives the agent.

macro_rules! reasons {
    ($(#[$enum_doc:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $label:literal;)+ }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl $name {
            /// Every reason, in order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The reason as metrics and commands spell it.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// The reason in a sentence for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was forwarded.
    ForwardReason {
        /// A client's packet, sent to its backend.
        Forward = 0, "forward";
        /// A backend's packet, sent to its client.
        Reply = 1, "reply";
        /// An ICMP error about a connection, translated and sent to whom it concerns.
        IcmpError = 2, "icmp_error";
        /// An echo request (ping) to a VIP, answered.
        Echo = 3, "echo";
    }
}

reasons! {
    /// Why a packet was left to the kernel, byte for byte as it came.
    PassReason {
        /// Not an IP packet: ARP, LLDP and the like.
        NotIp = 8, "not_ip";
        /// IP, but neither TCP nor UDP, nor an ICMP message that concerns a connection or a VIP.
        NotTcpOrUdp = 9, "not_tcp_or_udp";
        /// Addressed to no listener, and part of no connection.
        NoListener = 10, "no_listener";
        /// TCP to a listener, but part of no connection and not a SYN. The kernel answers with a reset if it owns the VIP.
        NoConnection = 11, "no_connection";
        /// A fragment of an IP packet whose first fragment was not for a listener.
        Fragment = 12, "fragment";
        /// Cut short, or with lengths that contradict each other.
        Malformed = 13, "malformed";
        /// The source address can't be answered.
        InvalidSource = 15, "invalid_source";
        /// In generic mode: a packet with an unfinished checksum, taken up again at the tc hook of the same interface.
        LeftToTc = 16, "left_to_tc";
        /// Sent to a group of hosts or to all of them on the link (Ethernet multicast and broadcast).
        NotUnicast = 17, "not_unicast";
        /// An IPv6 packet with more extension headers than are followed, or with one that must not be translated past: a source route
        /// that is not at its end.
        ExtensionHeaders = 18, "extension_headers";
        /// An ICMP error about no connection of ours: about this host's own, most likely.
        IcmpUnrelated = 19, "icmp_unrelated";
    }
}

reasons! {
    /// Why a packet was dropped.
    DropReason {
        /// The service has no backend that takes connections.
        NoBackend = 32, "no_backend";
        /// The connection table is full.
        TableFull = 33, "table_full";
        /// There are as many half-open connections as allowed.
        HalfOpenFull = 34, "half_open_full";
        /// The backend already talks to this client address and port on behalf of another listener.
        TupleTaken = 35, "tuple_taken";
        /// No free source port was found for `full_nat`.
        PortsExhausted = 36, "ports_exhausted";
        /// The neighbour on the way to the backend is not resolved yet.
        NoNeighbor = 37, "no_neighbor";
        /// There is no route to the backend, or forwarding is switched off on the interface.
        NoRoute = 38, "no_route";
        /// Larger than the way ahead takes. The sender is told.
        TooBig = 39, "too_big";
        /// The packet, or its connection, changed under the program's hands: another CPU was ending it at that moment.
        Vanished = 40, "vanished";
        /// The time to live ended here. The sender is told.
        TtlExpired = 41, "ttl_expired";
        /// An ICMP error with a wrong checksum, its own or that of the header it quotes (RFC 5508, REQ-3).
        IcmpChecksum = 42, "icmp_checksum";
        /// An echo request to a VIP whose service says `echo: off`.
        EchoRefused = 43, "echo_refused";
        /// A first fragment that contradicts another first fragment of the same packet, or one that is too short to be judged by.
        FragmentConflict = 44, "fragment_conflict";
        /// A fragment that came before the first one of its packet: it waits, and is seen again once that has come.
        FragmentHeld = 45, "fragment_held";
        /// A fragment that came before the first one of its packet, and there was no room for it to wait.
        FragmentLost = 46, "fragment_lost";
        /// The frame has no room for the VLAN tags or the ICMP error that it should leave with.
        NoHeadroom = 47, "no_headroom";
    }
}

reasons! {
    /// Something that happened beside a packet's verdict and is worth counting.
    Event {
        /// One of a connection's two entries was gone and was made anew from the other.
        PairRepaired = 56, "pair_repaired";
        /// An ICMP error was sent to the sender of a packet that can't go on.
        IcmpSent = 57, "icmp_sent";
        /// A `nat` connection got a translated source, because without it no reply would come back through here.
        SourceTranslated = 58, "source_translated";
    }
}

/// What the program decided for a packet that it does not forward: one word, since the compiler fills the unused parts of a larger value
/// with what the kernel's verifier refuses to read.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Verdict(u32);

/// A [`Verdict`], spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it to the kernel, unmodified, and count it under the number of a [`PassReason`].
    Pass(u32),
    /// Drop it, and count it under the number of a [`DropReason`].
    Drop(u32),
    /// Leave it to the kernel without counting it: a hook before this one judged it.
    AlreadyJudged,
    /// Drop it, and tell its sender.
    Refuse(Refusal),
}

/// Why a packet can't go on, so that its sender must be told: one word, for the reason given at [`Verdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Refusal(u16);

impl Refusal {
    /// Its time to live ends here.
    pub const TTL_EXPIRED: Self = Self(0);

    /// It is larger than what the way ahead takes: this many bytes.
    #[inline(always)]
    pub const fn too_big(mtu: u16) -> Self {
        Self(mtu)
    }

    /// Whether its time to live ends here; else it is too big.
    #[inline(always)]
    pub const fn is_ttl_expired(self) -> bool {
        self.0 == 0
    }

    /// Bytes that the way ahead takes; 0 for a packet that is not too big.
    #[inline(always)]
    pub const fn mtu(self) -> u16 {
        self.0
    }

    /// The reason under which the packet is counted.
    #[inline(always)]
    pub const fn reason(self) -> DropReason {
        if self.is_ttl_expired() {
            DropReason::TtlExpired
        } else {
            DropReason::TooBig
        }
    }
}

impl Verdict {
    /// Leave it to the kernel without counting it.
    pub const ALREADY_JUDGED: Self = Self(Self::JUDGED);
    // What stands in the upper half.
    const PASS: u32 = 0 << 16;
    const DROP: u32 = 1 << 16;
    const JUDGED: u32 = 2 << 16;
    const REFUSE: u32 = 3 << 16;

    /// The word.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// From what [`to_bits`](Self::to_bits) returned.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The verdict, spelled out.
    #[inline(always)]
    pub const fn decision(self) -> Decision {
        let value = self.0 & 0xffff;
        match self.0 & !0xffff {
            Self::PASS => Decision::Pass(value),
            Self::JUDGED => Decision::AlreadyJudged,
            Self::REFUSE => Decision::Refuse(Refusal(value as u16)),
            _ => Decision::Drop(value),
        }
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.decision().fmt(f)
    }
}

impl From<PassReason> for Verdict {
    #[inline(always)]
    fn from(reason: PassReason) -> Self {
        Self(Self::PASS | reason as u32)
    }
}

impl From<DropReason> for Verdict {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self(Self::DROP | reason as u32)
    }
}

impl From<Refusal> for Verdict {
    #[inline(always)]
    fn from(refusal: Refusal) -> Self {
        Self(Self::REFUSE | refusal.0 as u32)
    }
}

/// A counted outcome of a packet: its index in the counter map, and how metrics spell verdict and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Index in the map [`crate::maps::VERDICTS`].
    pub index: u32,
    /// `forward`, `pass` or `drop`.
    pub verdict: &'static str,
    /// The reason's label.
    pub reason: &'static str,
    /// The reason in a sentence.
    pub description: &'static str,
}

/// Every outcome that is counted, in order of its index.
pub fn outcomes() -> impl Iterator<Item = Outcome> {
    macro_rules! outcome {
        ($verdict:literal, $reasons:ident) => {
            $reasons::ALL.iter().map(|reason| Outcome {
                index: *reason as u32,
                verdict: $verdict,
                reason: reason.label(),
                description: reason.description(),
            })
        };
    }
    outcome!("forward", ForwardReason)
        .chain(outcome!("pass", PassReason))
        .chain(outcome!("drop", DropReason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_REASONS;

    #[test]
    fn indices_grow_and_fit_the_counter_map() {
        let indices: Vec<u32> = outcomes()
            .map(|outcome| outcome.index)
            .chain(Event::ALL.iter().map(|event| *event as u32))
            .collect();
        assert!(indices.is_sorted_by(|a, b| a < b), "{indices:?}");
        assert!(indices.iter().all(|index| *index < MAX_REASONS));
    }

    #[test]
    fn labels_are_unique_and_descriptions_are_sentences() {
        let mut labels: Vec<&str> = outcomes().map(|outcome| outcome.reason).collect();
        labels.sort_unstable();
        let count = labels.len();
        labels.dedup();
        assert_eq!(labels.len(), count);
        for outcome in outcomes() {
            assert!(outcome.description.trim().ends_with('.'), "{outcome:?}");
        }
    }
}
