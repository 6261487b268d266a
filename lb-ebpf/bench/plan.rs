//! What the generator makes of every frame. The program includes this file, and so does the benchmark that drives it.

/// Length of every frame in bytes: the shortest that Ethernet has, with its four bytes of checksum.
pub(crate) const FRAME_LENGTH: usize = 64;

/// Client ports in use at one client address. A power of two.
const PORTS: u32 = 4096;

/// The one element of the map `PLAN`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Plan {
    /// The frame, but for the client's address and port.
    pub(crate) template: [u64; FRAME_LENGTH / 8],
    /// Frames made so far; wraps around.
    pub(crate) made: u32,
    /// Number of flows less one; a number of flows is a power of two.
    pub(crate) mask: u32,
    /// Half the bits of a flow's number, at least 1, to visit the flows in a mixed order; 0 for one after the other.
    pub(crate) shuffle: u32,
    /// 1 where the client is the frame's destination, 0 where it is the source.
    pub(crate) to_client: u32,
}

/// Client address, as its two halves, and client port of the flow with this number.
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
