//! Whole frames sent and received on an interface of a namespace (`packet(7)`).

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, SockAddr, SockAddrStorage, Socket, Type};

use crate::namespace::Namespace;

/// Longer than any frame: the kernel may hand over 64 KiB that it would cut into frames later.
const BUFFER: usize = 70_000;
/// Bytes of MAC addresses, behind which a VLAN tag stands.
const TAG_AT: usize = 12;

// `linux/if_packet.h`: how a VLAN tag comes with the frame that it was taken from, and receiving only what comes in.
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Status of `struct tpacket_auxdata`: a tag was taken from the frame.
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;

/// A socket that sends and receives frames on one interface.
#[derive(Debug)]
pub struct RawSocket {
    socket: Socket,
}

impl RawSocket {
    /// Opens a socket on an interface. From then on it keeps what comes in, until it is received.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let index = namespace.interface_index(interface)?;
        let open = || -> io::Result<Socket> {
            // Protocol 0 receives nothing yet: only what the interface gets is wanted, and that is known when it is bound.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            switch_on(&socket, PACKET_AUXDATA)?;
            switch_on(&socket, PACKET_IGNORE_OUTGOING)?;
            socket.bind(&every_protocol_on(index))?;
            Ok(socket)
        };
        let socket = namespace.run(open)?;
        let socket = socket.with_context(|| format!("cannot open {interface} of {} for frames", namespace.name()))?;
        Ok(Self { socket })
    }

    /// Sends a frame as it is, VLAN tags included, from this interface.
    ///
    /// # Errors
    ///
    /// When it is longer than the interface's MTU and one VLAN tag allow, or the interface is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send(frame).context("cannot send a frame")?;
        ensure!(
            sent == frame.len(),
            "{sent} bytes of a frame of {} were sent",
            frame.len()
        );
        Ok(())
    }

    /// Waits for a frame that came in at this interface and that `wanted` takes; all before it are gone. With VLAN tags, where it
    /// had any. Its checksum is unfinished if its sender is a local socket.
    ///
    /// # Errors
    ///
    /// When none came within `limit`, with the number of those that were not wanted.
    pub fn receive(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        for unwanted in 0_u32.. {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = if left.is_zero() { None } else { self.next(left)? };
            match frame {
                Some(frame) if wanted(&frame) => return Ok(frame),
                Some(_) => {}
                None => bail!("no such frame within {limit:?}, {unwanted} others"),
            }
        }
        unreachable!("more frames than can be counted")
    }

    /// The next frame, or `None` if there is none in time.
    fn next(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.socket.set_read_timeout(Some(limit))?;
        match receive_with_tag(&self.socket) {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error).context("cannot receive a frame"),
        }
    }
}

/// The address of an interface, for frames of every protocol.
fn every_protocol_on(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address of this socket family, and valid with any content.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET
        .cast_unsigned()
        .try_into()
        .unwrap_or(libc::sa_family_t::MAX);
    address.sll_protocol = u16::to_be(0x0003);
    address.sll_ifindex = index.cast_signed();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the storage holds an address of this length.
    unsafe { SockAddr::new(storage, length) }
}

/// Sets an option of packet sockets to 1.
fn switch_on(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the kernel reads one integer of this length, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const one).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A frame, with the tag that the kernel took from it put back.
fn receive_with_tag(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut control = [MaybeUninit::uninit(); 128];
    let (length, control_length) = {
        let mut buffers = [MaybeUninitSlice::new(&mut buffer)];
        let mut message = MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
        (socket.recvmsg(&mut message, 0)?, message.control_len())
    };
    let mut frame = initialized(&buffer[..length]);
    if let Some(tag) = taken_tag(&initialized(&control[..control_length])) {
        frame.splice(TAG_AT..TAG_AT, tag);
    }
    Ok(frame)
}

/// Bytes that the kernel has written.
fn initialized(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: callers pass what `recvmsg` said it has written.
    bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

/// The VLAN tag in the one control message that comes with a frame: a header of length, level and type, then `struct
/// tpacket_auxdata`.
fn taken_tag(control: &[u8]) -> Option<[u8; 4]> {
    let auxdata = control.get(size_of::<libc::cmsghdr>()..)?;
    let status = u32::from_ne_bytes(*auxdata.first_chunk()?);
    let half_word = |at: usize| auxdata.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    let (control, protocol) = (half_word(16)?, half_word(18)?);
    let ([a, b], [c, d]) = (protocol.to_be_bytes(), control.to_be_bytes());
    (status & TP_STATUS_VLAN_VALID != 0).then_some([a, b, c, d])
}
