//! Attaching the programs to interfaces, replacing them in place, taking them off again.
//!
//! An XDP program is attached by a link that is pinned, so that it stays when the agent goes; a new agent replaces the program inside
//! the link, and the interface never sees a detach. In generic mode a tc program stands behind it, see `lb-ebpf`'s `attachment.rs`;
//! it is attached first and detached last, so that no packet falls between the two.

use aya::{
    Ebpf,
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use lb_common::maps::programs;
use tracing::{debug, error, warn};

use super::{reinject::Reinjection, tc};
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
    /// A tun or tap device. Its driver runs a native program on kernel packets too, which are longer than a page and whose unfinished
    /// checksums stay unfinished: generic mode knows both.
    pub is_tun: bool,
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

/// Attaches the program that fits, or replaces the one that is there. On failure the interface is as it was.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, device: &Device, wanted: XdpMode) -> Result<Attached, AttachError> {
    let mut before = None;
    if let Some((link, mode)) = existing(pins, device.ifindex) {
        before = Some(mode);
        if wanted != XdpMode::Auto && wanted != mode {
            // Native and generic exclude each other on an interface, so for a moment there is none. Not longer than needed.
            loaded(ebpf, device, program_name(device, wanted))?;
        } else if replace(ebpf, pins, device, link, mode)? {
            return Ok(Attached { mode, before });
        } else {
            warn!(
                interface = device.name,
                "the link is that of an interface that is gone, attaching anew"
            );
            before = None;
        }
        pins.remove(&pins.link(device.ifindex, mode))?;
    }
    let result = attach_new(ebpf, pins, device, wanted);
    match (&result, before) {
        (Ok(XdpMode::Native), Some(XdpMode::Generic)) => tc::detach(pins, device)?,
        (Err(_), Some(mode)) => {
            if let Err(error) = attach_new(ebpf, pins, device, mode) {
                error!(interface = device.name, %error, "cannot attach the packet path in its former mode again");
            }
        }
        _ => {}
    }
    result.map(|mode| Attached { mode, before })
}

/// Attaches to an interface that has no link of ours; returns the mode. On failure nothing is attached.
fn attach_new(ebpf: &mut Ebpf, pins: &Pins, device: &Device, wanted: XdpMode) -> Result<XdpMode, AttachError> {
    match wanted {
        XdpMode::Generic => {
            tc::attach(ebpf, pins, device)?;
            let result = attach_xdp(ebpf, pins, device, XdpMode::Generic);
            if result.is_err() {
                tc::detach(pins, device)?;
            }
            result
        }
        XdpMode::Native => attach_xdp(ebpf, pins, device, XdpMode::Native),
        XdpMode::Auto if device.is_tun => attach_new(ebpf, pins, device, XdpMode::Generic),
        XdpMode::Auto => match attach_xdp(ebpf, pins, device, XdpMode::Native) {
            Err(AttachError::NativeUnsupported { interface, source }) => {
                warn!(interface, reason = %source, "no native XDP here, falling back to generic mode, which is slower");
                attach_new(ebpf, pins, device, XdpMode::Generic)
            }
            other => other,
        },
    }
}

/// Takes the programs off an interface. `device` is `None` when the interface is gone.
pub(super) fn detach(pins: &Pins, ifindex: u32, device: Option<&Device>) -> Result<(), AttachError> {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        pins.remove(&pins.link(ifindex, mode))?;
    }
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

/// How frames are put back into an interface. In generic mode the kernel runs the program of the interface on whatever it receives
/// there, so that a program which passes everything is enough; it also is what can redirect to any interface.
pub(super) fn reinjection(ebpf: &mut Ebpf, device: &Device, mode: XdpMode) -> Result<Reinjection, AttachError> {
    let name = if mode == XdpMode::Generic {
        programs::PASS
    } else {
        program_name(device, mode)
    };
    let program = loaded(ebpf, device, name)?.fd();
    let program = program.map_err(kernel("use the program for", &device.name))?;
    let program = program
        .try_clone()
        .map_err(kernel("use the program for", &device.name))?;
    Ok(Reinjection::new(program))
}

/// The pinned link of an interface, and the mode it is attached in.
fn existing(pins: &Pins, ifindex: u32) -> Option<(PinnedLink, XdpMode)> {
    [XdpMode::Native, XdpMode::Generic]
        .into_iter()
        .find_map(|mode| Some((PinnedLink::from_pin(pins.link(ifindex, mode)).ok()?, mode)))
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

/// Puts the new program into the link that is there. `false`: its interface is gone, and the index was given out anew.
fn replace(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &Device,
    link: PinnedLink,
    mode: XdpMode,
) -> Result<bool, AttachError> {
    if mode == XdpMode::Generic {
        tc::attach(ebpf, pins, device)?;
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

fn attach_xdp(ebpf: &mut Ebpf, pins: &Pins, device: &Device, mode: XdpMode) -> Result<XdpMode, AttachError> {
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
    link.pin(pins.link(device.ifindex, mode))
        .map_err(kernel("pin the link of", &device.name))?;
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
