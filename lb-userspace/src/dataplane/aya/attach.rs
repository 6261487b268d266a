//! Attaching the programs to interfaces, replacing them in place, taking them off again.
//!
//! An XDP program is attached by a link that is pinned, so that it stays when the agent goes; a new agent replaces the program inside
//! the link, and the interface never sees a detach. In generic mode a tc program stands behind it, see `lb-ebpf`'s `attachment.rs`;
//! it is attached first and detached last, so that no packet falls between the two.

use std::path::PathBuf;

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use lb_common::maps::programs;
use tracing::{debug, info, warn};

use super::tc;
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
    /// Whether the link was there before, and only its program was replaced.
    pub replaced: bool,
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
    /// The kernel does not accept the program.
    #[error("the kernel refused the packet path for {interface} ({io_error}): {verdict}; {hint}")]
    Refused {
        /// The interface it was meant for.
        interface: String,
        /// The error number.
        io_error: std::io::Error,
        /// What the verifier said last.
        verdict: String,
        /// What to do.
        hint: &'static str,
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

/// Turns a refused load into its essence: the whole log of the verifier goes to the debug log.
pub(super) fn load_error(interface: &str) -> impl FnOnce(ProgramError) -> AttachError {
    let interface = interface.to_owned();
    move |error| {
        let ProgramError::LoadError { io_error, verifier_log } = error else {
            return kernel("load the program for", &interface)(error);
        };
        let log = verifier_log.to_string();
        debug!("the verifier said:\n{log}");
        AttachError::Refused {
            interface,
            hint: match io_error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; XLB_LOG=debug shows the verifier's log"
                }
                _ => "XLB_LOG=debug shows the verifier's log",
            },
            io_error,
            verdict: last_words(&log),
        }
    }
}

/// What the verifier said last, before its statistics.
fn last_words(log: &str) -> String {
    let words = log.lines().rev().map(str::trim).find(|line| {
        let statistics = ["verification time", "stack depth", "processed "];
        !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
    });
    words.unwrap_or("no reason given").to_owned()
}

pub(super) fn kernel<E>(operation: &'static str, interface: &str) -> impl FnOnce(E) -> AttachError
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

/// Attaches the program that fits, or replaces the one that is there.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, device: &Device, wanted: XdpMode) -> Result<Attached, AttachError> {
    let pin = pins.link(device.ifindex);
    if let Some((link, mode)) = existing(&pin) {
        if wanted == XdpMode::Auto || wanted == mode {
            match replace(ebpf, pins, device, link, mode) {
                Ok(()) => return Ok(Attached { mode, replaced: true }),
                // The interface of this link is gone, and its index was given out anew.
                Err(error) => {
                    warn!(interface = device.name, %error, "cannot replace the program in place, attaching anew");
                }
            }
        }
        pins.remove(&pin)?;
    }
    let mode = match wanted {
        XdpMode::Generic => XdpMode::Generic,
        XdpMode::Native => attach_xdp(ebpf, &pin, device, XdpMode::Native)?,
        XdpMode::Auto => match attach_xdp(ebpf, &pin, device, XdpMode::Native) {
            Err(AttachError::NativeUnsupported { interface, source }) => {
                warn!(interface, reason = %source, "no native XDP here, falling back to generic mode, which is slower");
                XdpMode::Generic
            }
            other => other?,
        },
    };
    if mode == XdpMode::Generic {
        tc::attach(ebpf, pins, device)?;
        attach_xdp(ebpf, &pin, device, XdpMode::Generic)?;
    } else {
        // Left from an earlier attachment in generic mode.
        tc::detach(pins, device)?;
    }
    Ok(Attached { mode, replaced: false })
}

/// Takes the programs off an interface. `device` is `None` when the interface is gone.
pub(super) fn detach(pins: &Pins, ifindex: u32, device: Option<&Device>) -> Result<(), AttachError> {
    pins.remove(&pins.link(ifindex))?;
    match device {
        Some(device) => tc::detach(pins, device),
        None => Ok(pins.remove(&pins.tc_link(ifindex))?),
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
fn existing(pin: &PathBuf) -> Option<(PinnedLink, XdpMode)> {
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
        program.load().map_err(load_error(&device.name))?;
    }
    Ok(program)
}

/// Puts the new program into the link that is there.
fn replace(ebpf: &mut Ebpf, pins: &Pins, device: &Device, link: PinnedLink, mode: XdpMode) -> Result<(), AttachError> {
    if mode == XdpMode::Generic {
        tc::attach(ebpf, pins, device)?;
    }
    let error = || kernel::<ProgramError>("replace the program of", &device.name);
    let program = loaded(ebpf, device, program_name(device, mode))?;
    let link = XdpLink::try_from(FdLink::from(link)).map_err(kernel("use the pinned link of", &device.name))?;
    let id = program.attach_to_link(link).map_err(error())?;
    // The pin holds the link; without this, dropping the program would close it, which is fine, but not detach it.
    drop(program.take_link(id).map_err(error())?);
    info!(interface = device.name, mode = ?mode, "program replaced in place");
    Ok(())
}

fn attach_xdp(ebpf: &mut Ebpf, pin: &PathBuf, device: &Device, mode: XdpMode) -> Result<XdpMode, AttachError> {
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
