//! Tiny XDP programs written as instructions, loaded without any compiler.
//!
//! A native redirect into a veth is received only when its peer polls with NAPI, and an XDP program on the peer brings that about.
//! [`RawProgram::pass`] is that program. The three `bpf()` commands needed are made here by hand, since a loader of object files
//! would first need an object file.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

/// `enum bpf_cmd` of `linux/bpf.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum BpfCommand {
    ProgLoad = 5,
    ObjPin = 6,
    LinkCreate = 28,
}

/// `enum bpf_prog_type`.
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
/// Flag of `BPF_PROG_LOAD`: takes packets of several buffers. Without it the kernel switches off segmentation offload on the
/// device's peer, and the laboratory leaves offloads as they are.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Flag of `BPF_LINK_CREATE` for XDP: in the driver.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Attributes of `BPF_PROG_LOAD`, as far as needed: `union bpf_attr`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

/// Attributes of `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: i32,
    target_interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attributes of `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjPin {
    path: u64,
    fd: i32,
    flags: u32,
}

/// One BPF instruction as the kernel reads it: opcode, registers, offset, constant, in the machine's byte order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub opcode: u8,
    /// Source register in the high half, destination in the low one.
    pub registers: u8,
    /// Offset for jumps and memory.
    pub offset: i16,
    /// Constant operand.
    pub constant: i32,
}

impl Instruction {
    /// `r0 = constant`.
    pub const fn set_result(constant: i32) -> Self {
        Self {
            opcode: 0xb7,
            registers: 0,
            offset: 0,
            constant,
        }
    }

    /// `r0 = *(u32 *)(r1 + offset)`: a field of the program's context.
    pub const fn load_context(offset: i16) -> Self {
        Self {
            opcode: 0x61,
            registers: 0x10,
            offset,
            constant: 0,
        }
    }

    /// `exit`.
    pub const EXIT: Self = Self {
        opcode: 0x95,
        registers: 0,
        offset: 0,
        constant: 0,
    };
}

/// A loaded XDP program. It stays in the kernel as long as this, a link or a pin does.
#[derive(Debug)]
pub struct RawProgram(OwnedFd);

/// An attachment of a program to an interface; ends when dropped.
#[derive(Debug)]
pub struct RawLink {
    _fd: OwnedFd,
}

impl RawProgram {
    /// The program that passes every packet.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it, most likely for want of privileges.
    pub fn pass() -> Result<Self> {
        const XDP_PASS: i32 = 2;
        Self::load(&[Instruction::set_result(XDP_PASS), Instruction::EXIT])
    }

    /// Loads a program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn load(instructions: &[Instruction]) -> Result<Self> {
        let mut name = [0; 16];
        name[..7].copy_from_slice(b"xlb_lab");
        let attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            instruction_count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            flags: BPF_F_XDP_HAS_FRAGS,
            name,
            interface_index: 0,
            expected_attach_type: BPF_XDP,
        };
        let fd = bpf(BpfCommand::ProgLoad, &attributes).context("cannot load an XDP program")?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches the program in native mode to an interface of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// When the interface does not exist, has a program already, or its driver has no XDP.
    pub fn attach(&self, interface_index: u32) -> Result<RawLink> {
        let attributes = LinkCreate {
            prog_fd: self.0.as_raw_fd(),
            target_interface: interface_index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let fd = bpf(BpfCommand::LinkCreate, &attributes)
            .with_context(|| format!("cannot attach an XDP program to interface {interface_index}"))?;
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(RawLink { _fd: fd })
    }

    /// Pins the program to a path in a BPF file system.
    ///
    /// # Errors
    ///
    /// When the path is taken or outside a BPF file system.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_encoded_bytes())?;
        let attributes = ObjPin {
            path: name.as_ptr() as u64,
            fd: self.0.as_raw_fd(),
            flags: 0,
        };
        bpf(BpfCommand::ObjPin, &attributes).with_context(|| format!("cannot pin a program to {}", path.display()))?;
        Ok(())
    }
}

/// The system call. `attributes` must be the one that belongs to `command`, pointers in it must be valid for the call.
fn bpf<T>(command: BpfCommand, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes live through the call and `size_of` is their length; the kernel takes what is missing at their end as
    // zero. The commands used here write nothing into them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as i32,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    // A descriptor or 0, else -1.
    i32::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}
