//! VLAN tags (IEEE 802.1Q).

/// A VLAN tag between the MAC addresses and the Ethernet type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Tag protocol identifier: 0x8100 or 0x88a8, or what a test wants to see refused.
    pub protocol: u16,
    /// Priority code point, 3 bits; others are cut off.
    pub priority: u8,
    /// Drop eligible indicator.
    pub drop_eligible: bool,
    /// VLAN identifier, 12 bits; others are cut off.
    pub vlan: u16,
}

impl Tag {
    /// A customer's tag (802.1Q): the usual one, and the inner one of two.
    pub const fn customer(vlan: u16) -> Self {
        Self {
            protocol: 0x8100,
            priority: 0,
            drop_eligible: false,
            vlan,
        }
    }

    /// A service provider's tag (802.1ad, QinQ): the outer one of two.
    pub const fn service(vlan: u16) -> Self {
        Self {
            protocol: 0x88a8,
            ..Self::customer(vlan)
        }
    }

    /// With this priority.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// With the mark of a packet that may be dropped first.
    #[must_use]
    pub const fn drop_eligible(mut self) -> Self {
        self.drop_eligible = true;
        self
    }

    /// As it stands in a frame.
    pub(super) fn bytes(self) -> [u8; 4] {
        let control = u16::from(self.priority & 0x07) << 13 | u16::from(self.drop_eligible) << 12 | self.vlan & 0x0fff;
        let ([a, b], [c, d]) = (self.protocol.to_be_bytes(), control.to_be_bytes());
        [a, b, c, d]
    }
}
