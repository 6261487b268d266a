//! Frames put back where they came in.
//!
//! `BPF_PROG_TEST_RUN` with live frames (Linux 5.18) runs a program on a frame as the interface's driver would, and does with it what
//! the program says: it redirects the frame, or hands it to the kernel as received on that interface. aya's own call needs the
//! program's owner, which is behind the lock of the data plane; a frame must not wait for that.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::programs::ProgramFd;
use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_attr, bpf_cmd};

/// Puts frames back into interfaces in one mode of attachment.
#[derive(Debug)]
pub struct Reinjection {
    program: ProgramFd,
}

/// `struct xdp_md` as the kernel wants it: what a caller may not set is zero.
#[derive(Default)]
#[repr(C)]
struct Context {
    data: u32,
    /// Length of the frame.
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

const CONTEXT_LENGTH: u32 = 24;
const _: () = assert!(size_of::<Context>() == CONTEXT_LENGTH as usize);

impl Reinjection {
    /// `program` is the one attached to the interfaces, or, in generic mode, one that passes everything: the kernel then runs the
    /// one attached to the interface by itself.
    pub(super) const fn new(program: ProgramFd) -> Self {
        Self { program }
    }

    /// Puts `frame`, from its Ethernet header on, into an interface of the caller's network namespace.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the interface is gone, `EINVAL` for a frame that does not fit into a page with its headroom, and from kernels
    /// before 5.18.
    pub fn run(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let context = Context {
            data_end: length,
            ingress_ifindex: ifindex,
            ..Context::default()
        };
        // SAFETY: all zeros is a value of every variant. Only fields are written from here on, since the kernel refuses attributes
        // with anything but zeros behind the last field, where the variant has padding.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the variant is plain integers, for which the zeros are values.
        let test = unsafe { &mut attributes.test };
        test.prog_fd = self.program.as_fd().as_raw_fd().cast_unsigned();
        test.data_in = frame.as_ptr() as u64;
        test.data_size_in = length;
        test.ctx_in = &raw const context as u64;
        test.ctx_size_in = CONTEXT_LENGTH;
        test.repeat = 1;
        test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
        test.batch_size = 1;
        // SAFETY: the attributes, and the frame and context that they point to, live until the call returns; their lengths are told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                bpf_cmd::BPF_PROG_TEST_RUN,
                &raw mut attributes,
                size_of::<bpf_attr>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
