//! What the generator makes of every frame. The program includes this file, and so does the benchmark that drives it.

/// Room for a frame, in bytes. The frames are as short as Ethernet and their headers allow.
pub(crate) const MAX_FRAME_LENGTH: usize = 96;

/// Client ports in use at one client address. A power of two.
const PORTS: u32 = 4096;

/// The one element of the map `PLAN`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Plan {
    /// The frame, but for the client's address and port.
    pub(crate) template: [u64; MAX_FRAME_LENGTH / 8],
    /// Frames made so far; wraps around.
    pub(crate) made: u32,
    /// Number of flows less one; a number of flows is a power of two.
    pub(crate) mask: u32,
    /// Half the bits of a flow's number, at least 1, to visit the flows in a mixed order; 0 for one after the other.
    pub(crate) shuffle: u32,
    /// Where the last four bytes of the client's address stand in the frame.
    pub(crate) address_at: u32,
    /// Where the client's port stands in the frame.
    pub(crate) port_at: u32,
    /// Length of the frame in bytes, a multiple of 8.
    pub(crate) length: u32,
    /// Always 0.
    pub(crate) padding: u32,
}

/// The last four bytes of the client's address, as two halves, and client port of the flow with this number.
///
/// The halves have the same sum for every flow, so the checksum of the template's IP header is right for all of them, and so is a TCP
/// checksum that covers the pseudo header alone, as an unfinished one does.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "16 bits of the address at most: 2^28 flows"
)]
pub(crate) const fn client(flow: u32) -> ([u16; 2], u16) {
    let host = (flow / PORTS) as u16;
    let address = [0x0a00 + host, 0xfe00 - host];
    let port = 1024 + (flow % PORTS) as u16;
    (address, port)
}
