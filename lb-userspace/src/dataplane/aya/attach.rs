//! Attaching the programs to interfaces, replacing them in place, taking them off again.
//!
//! An XDP program is attached by a link that is pinned, so that it stays when the agent goes; a new agent replaces the program inside
//! the link, and the interface never sees a detach. In generic mode a tc program stands behind it, see `lb-ebpf`'s `attachment.rs`;
//! it is attached first and detached last, so that no packet falls between the two.

use std::path::Path;

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
        },
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use lb_common::maps::programs;
use tracing::{error, warn};

use crate::{
    dataplane::pins::{Pins, PinsError},
    model::XdpMode,
};

/// An interface, as far as attaching needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Made by software (veth, tap, bridge ...): local sockets may be at its other end.
    pub is_virtual: bool,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// [`XdpMode::Native`] or [`XdpMode::Generic`].
    pub mode: XdpMode,
    /// The mode in which the packet path was attached before, if it was. If it is the same, only the program was replaced.
    pub before: Option<XdpMode>,
}

/// Why a program can't be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Another program is attached.
    #[error(
        "{interface} already has an XDP program that is not xlb's; take it off first: ip link set dev {interface} xdp off"
    )]
    Foreign {
        /// The interface.
        interface: String,
    },
    /// The driver has no native XDP, or not with this MTU.
    #[error(
        "{interface} does not take XDP in native mode ({source}); lower its MTU, or set xdp_mode to `auto` or `generic`"
    )]
    NativeUnsupported {
        /// The interface.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The kernel has no XDP links.
    #[error("this kernel has no links for XDP programs; Linux 5.9 or newer is needed")]
    NoLinks,
    /// Something else.
    #[error("cannot {operation} {interface}: {source}")]
    Kernel {
        /// What was attempted.
        operation: &'static str,
        /// On which interface.
        interface: String,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinsError),
}

fn kernel<E>(operation: &'static str, interface: &str) -> impl FnOnce(E) -> AttachError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let interface = interface.to_owned();
    move |source| AttachError::Kernel {
        operation,
        interface,
        source: Box::new(source),
    }
}

/// Priority and handle of the tc filter. Fixed, so that a new agent finds and replaces the old one's; the handle is one that nobody
/// else picks, because a filter with the same is replaced.
const TC_PRIORITY: u16 = 1;
const TC_HANDLE: TcHandle = TcHandle::new(0, 0x786c);

/// Attaches the program that fits, or replaces the one that is there. On failure the interface is as it was.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, device: &Device, wanted: XdpMode) -> Result<Attached, AttachError> {
    let pin = pins.link(device.ifindex);
    let mut before = None;
    if let Some((link, mode)) = existing(&pin) {
        before = Some(mode);
        if wanted != XdpMode::Auto && wanted != mode {
            // Native and generic exclude each other on an interface, so for a moment there is none. Not longer than needed.
            loaded(ebpf, device, program_name(device, wanted))?;
        } else if replace(ebpf, device, link, mode)? {
            return Ok(Attached { mode, before });
        } else {
            warn!(
                interface = device.name,
                "the link is that of an interface that is gone, attaching anew"
            );
            before = None;
        }
        pins.remove(&pin)?;
    }
    let result = attach_new(ebpf, &pin, device, wanted);
    match (&result, before) {
        (Ok(XdpMode::Native), Some(XdpMode::Generic)) => detach_tc(device)?,
        (Err(_), Some(mode)) => {
            if let Err(error) = attach_new(ebpf, &pin, device, mode) {
                error!(interface = device.name, %error, "cannot attach the packet path in its former mode again");
            }
        }
        _ => {}
    }
    result.map(|mode| Attached { mode, before })
}

/// Attaches to an interface that has no link of ours; returns the mode. On failure nothing is attached.
fn attach_new(ebpf: &mut Ebpf, pin: &Path, device: &Device, wanted: XdpMode) -> Result<XdpMode, AttachError> {
    match wanted {
        XdpMode::Generic => {
            attach_tc(ebpf, device)?;
            let result = attach_xdp(ebpf, pin, device, XdpMode::Generic);
            if result.is_err() {
                detach_tc(device)?;
            }
            result
        }
        XdpMode::Native => attach_xdp(ebpf, pin, device, XdpMode::Native),
        XdpMode::Auto => match attach_xdp(ebpf, pin, device, XdpMode::Native) {
            Err(AttachError::NativeUnsupported { interface, source }) => {
                warn!(interface, reason = %source, "no native XDP here, falling back to generic mode, which is slower");
                attach_new(ebpf, pin, device, XdpMode::Generic)
            }
            other => other,
        },
    }
}

/// Takes the programs off an interface. `device` is `None` when the interface is gone.
pub(super) fn detach(pins: &Pins, ifindex: u32, device: Option<&Device>) -> Result<(), AttachError> {
    pins.remove(&pins.link(ifindex))?;
    device.map_or(Ok(()), detach_tc)
}

/// Takes the tc program off an interface; one that is not there is fine.
fn detach_tc(device: &Device) -> Result<(), AttachError> {
    match qdisc_detach_program(&device.name, TcAttachType::Ingress, programs::TC) {
        Err(TcError::IoError(error)) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // Without a clsact qdisc there is no filter to list.
        Ok(()) | Err(TcError::NetlinkError(_)) => Ok(()),
        Err(error) => Err(kernel("detach the tc program from", &device.name)(error)),
    }
}

/// The program of an object for an interface and a mode.
const fn program_name(device: &Device, mode: XdpMode) -> &'static str {
    match (mode, device.is_virtual) {
        (XdpMode::Generic, _) => programs::GENERIC,
        (_, true) => programs::NATIVE_VIRTUAL,
        (_, false) => programs::NATIVE,
    }
}

/// The pinned link and the mode it is attached in, which the name of its program tells.
fn existing(pin: &Path) -> Option<(PinnedLink, XdpMode)> {
    let link = PinnedLink::from_pin(pin).ok()?;
    let info = FdLink::from(PinnedLink::from_pin(pin).ok()?).info().ok()?;
    let program = loaded_programs()
        .flatten()
        .find(|program| program.id() == info.program_id())?;
    let mode = match program.name_as_str()? {
        programs::GENERIC => XdpMode::Generic,
        _ => XdpMode::Native,
    };
    Some((link, mode))
}

/// Loads a program unless it is already.
fn loaded<'a>(ebpf: &'a mut Ebpf, device: &Device, name: &'static str) -> Result<&'a mut Xdp, AttachError> {
    let missing = || AttachError::Kernel {
        operation: "find the program for",
        interface: device.name.clone(),
        source: format!("the embedded object has no program {name}").into(),
    };
    let program = ebpf.program_mut(name).ok_or_else(missing)?;
    let program: &mut Xdp = program
        .try_into()
        .map_err(kernel("use the program for", &device.name))?;
    if program.fd().is_err() {
        program.load().map_err(kernel("load the program for", &device.name))?;
    }
    Ok(program)
}

/// Puts the new program into the link that is there. `false`: its interface is gone, and the index was given out anew.
fn replace(ebpf: &mut Ebpf, device: &Device, link: PinnedLink, mode: XdpMode) -> Result<bool, AttachError> {
    if mode == XdpMode::Generic {
        attach_tc(ebpf, device)?;
    }
    let error = || kernel::<ProgramError>("replace the program of", &device.name);
    let program = loaded(ebpf, device, program_name(device, mode))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(kernel("use the pinned link of", &device.name))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin holds the link; without this, dropping the program would close it, which is fine, but not detach it.
            drop(program.take_link(id).map_err(error())?);
            Ok(true)
        }
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            Ok(false)
        }
        Err(source) => Err(error()(source)),
    }
}

fn attach_xdp(ebpf: &mut Ebpf, pin: &Path, device: &Device, mode: XdpMode) -> Result<XdpMode, AttachError> {
    let program = loaded(ebpf, device, program_name(device, mode))?;
    let flags = if mode == XdpMode::Generic {
        AyaMode::Skb
    } else {
        AyaMode::Driver
    };
    let id = program
        .attach_to_if_index(device.ifindex, flags)
        .map_err(|source| classify(device, mode, source))?;
    let link = program.take_link(id).map_err(kernel("attach to", &device.name))?;
    let link = FdLink::try_from(link).map_err(|_netlink| AttachError::NoLinks)?;
    link.pin(pin).map_err(kernel("pin the link of", &device.name))?;
    Ok(mode)
}

/// Turns the kernel's answer into what the operator must know.
fn classify(device: &Device, mode: XdpMode, source: ProgramError) -> AttachError {
    let errno = match &source {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    };
    let interface = device.name.clone();
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Foreign { interface },
        Some(libc::EOPNOTSUPP | libc::ERANGE) if mode == XdpMode::Native => {
            AttachError::NativeUnsupported { interface, source }
        }
        _ => AttachError::Kernel {
            operation: "attach to",
            interface,
            source: Box::new(source),
        },
    }
}

fn attach_tc(ebpf: &mut Ebpf, device: &Device) -> Result<(), AttachError> {
    let error = || kernel::<ProgramError>("attach the tc program to", &device.name);
    // Fails when the qdisc is there already, which is as good; without it the next step fails with a reason.
    let _there_already = qdisc_add_clsact(&device.name);
    let missing = || AttachError::Kernel {
        operation: "find the tc program for",
        interface: device.name.clone(),
        source: "the embedded object lacks it".into(),
    };
    let program = ebpf.program_mut(programs::TC).ok_or_else(missing)?;
    let program: &mut SchedClassifier = program.try_into().map_err(error())?;
    if program.fd().is_err() {
        program.load().map_err(error())?;
    }
    let id = match program.attach_with_options(
        &device.name,
        TcAttachType::Ingress,
        TcAttachOptions::Netlink(NlOptions {
            priority: TC_PRIORITY,
            handle: TC_HANDLE,
            classid: None,
        }),
    ) {
        Ok(id) => id,
        Err(_occupied) => {
            let link = SchedClassifierLink::attached(&device.name, TcAttachType::Ingress, TC_PRIORITY, TC_HANDLE, None)
                .map_err(kernel("find the tc program of", &device.name))?;
            program.attach_to_link(link).map_err(error())?
        }
    };
    // A netlink attachment has no pin: it stays unless it is taken off, which dropping the handle would do.
    std::mem::forget(program.take_link(id).map_err(error())?);
    Ok(())
}
