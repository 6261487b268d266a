//! What an address is to the balancer. Asked for packets that belong to no connection and name no port: echo requests, and fragments
//! that come before the first one of their packet.

/// Roles of an address, as a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Roles(pub u32);

impl Roles {
    /// A VIP of some listener.
    pub const VIP: u32 = 1 << 0;
    /// A backend of some service.
    pub const BACKEND: u32 = 1 << 1;
    /// An address that translated sources come from.
    pub const SNAT: u32 = 1 << 2;
    /// With [`VIP`](Self::VIP): echo requests to it are answered by the program. Without this and [`REFUSE_ECHO`](Self::REFUSE_ECHO)
    /// they are the kernel's.
    pub const ANSWER_ECHO: u32 = 1 << 3;
    /// With [`VIP`](Self::VIP): echo requests to it are dropped.
    pub const REFUSE_ECHO: u32 = 1 << 4;

    /// Whether it has any of `bits`.
    #[inline(always)]
    pub const fn any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

#[cfg(feature = "user")]
// SAFETY: a transparent integer, every bit pattern is a value.
unsafe impl aya::Pod for Roles {}
