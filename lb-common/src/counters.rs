//! Counters, one instance per CPU, only ever growing.

/// Traffic of a service or a backend.
///
/// Bytes are those of the IP packet, without the Ethernet header: what an operator pays for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Connections created.
    pub connections: u64,
    /// Packets from clients.
    pub forward_packets: u64,
    /// Bytes from clients.
    pub forward_bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends.
    pub reply_bytes: u64,
}

const _: () = assert!(size_of::<Traffic>() == 40);

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self {
            connections,
            forward_packets,
            forward_bytes,
            reply_packets,
            reply_bytes,
        } = other;
        self.connections += connections;
        self.forward_packets += forward_packets;
        self.forward_bytes += forward_bytes;
        self.reply_packets += reply_packets;
        self.reply_bytes += reply_bytes;
    }
}

/// How much of something happened in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Budget {
    /// The second, since the machine started.
    pub second: u64,
    /// How often in it.
    pub spent: u64,
}

#[cfg(feature = "user")]
// SAFETY: `#[repr(C)]` without gaps, every bit pattern is a value.
unsafe impl aya::Pod for Traffic {}
