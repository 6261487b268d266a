//! The companion of generic XDP at tc ingress.
//!
//! From Linux 6.6 on it is attached by a link that is pinned (tcx), like XDP itself. Older kernels have filters of a `clsact` qdisc
//! only; those stay by themselves, and are found again by their fixed priority and handle.

use std::io;

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkOrder, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
        },
    },
    sys::SyscallError,
};
use lb_common::maps::programs;
use tracing::warn;

use super::attach::{AttachError, Device, kernel, load_error};
use crate::dataplane::pins::Pins;

/// Priority and handle of the filter on kernels without tcx. Fixed, so that a new agent finds and replaces the old one's; the handle is
/// one that nobody else picks, because a filter with the same is replaced.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x786c);

/// Attaches the program, or replaces the one that is there.
pub(super) fn attach(ebpf: &mut Ebpf, pins: &Pins, device: &Device) -> Result<(), AttachError> {
    let error = || kernel::<ProgramError>("attach the tc program to", &device.name);
    let program = loaded(ebpf, device)?;
    let pin = pins.tc_link(device.ifindex);
    if let Ok(link) = PinnedLink::from_pin(&pin) {
        let link = SchedClassifierLink::try_from(FdLink::from(link))
            .map_err(kernel("use the pinned link of", &device.name))?;
        match program.attach_to_link(link) {
            // The pin keeps the link.
            Ok(id) => return program.take_link(id).map(drop).map_err(error()),
            Err(error) => {
                warn!(interface = device.name, %error, "cannot replace the tc program in place, attaching anew");
            }
        }
        pins.remove(&pin)?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    match program.attach_with_options(&device.name, TcAttachType::Ingress, order) {
        Ok(id) => {
            let link = FdLink::try_from(program.take_link(id).map_err(error())?)
                .map_err(kernel("pin the tc link of", &device.name))?;
            link.pin(pin).map_err(kernel("pin the tc link of", &device.name))?;
            Ok(())
        }
        Err(refused) if is_unknown_to_kernel(&refused) => attach_filter(program, device),
        Err(refused) => Err(error()(refused)),
    }
}

/// Takes the program off an interface that still exists.
pub(super) fn detach(pins: &Pins, device: &Device) -> Result<(), AttachError> {
    let pin = pins.tc_link(device.ifindex);
    if pin.exists() {
        return Ok(pins.remove(&pin)?);
    }
    match qdisc_detach_program(&device.name, TcAttachType::Ingress, programs::TC) {
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Without a clsact qdisc there is no filter to list.
        Ok(()) | Err(TcError::NetlinkError(_)) => Ok(()),
        Err(error) => Err(kernel("detach the tc program from", &device.name)(error)),
    }
}

fn loaded<'a>(ebpf: &'a mut Ebpf, device: &Device) -> Result<&'a mut SchedClassifier, AttachError> {
    let missing = || AttachError::Kernel {
        operation: "find the tc program for",
        interface: device.name.clone(),
        source: "the embedded object lacks it".into(),
    };
    let program = ebpf.program_mut(programs::TC).ok_or_else(missing)?;
    let program: &mut SchedClassifier = program
        .try_into()
        .map_err(kernel("use the tc program for", &device.name))?;
    if program.fd().is_err() {
        program.load().map_err(load_error(&device.name))?;
    }
    Ok(program)
}

/// Kernels before 6.6 do not know this kind of attachment.
fn is_unknown_to_kernel(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EINVAL))
}

fn attach_filter(program: &mut SchedClassifier, device: &Device) -> Result<(), AttachError> {
    let error = || kernel::<ProgramError>("attach the tc program to", &device.name);
    // Fails when the qdisc is there already, which is as good; without it the next step fails with a reason.
    let _there_already = qdisc_add_clsact(&device.name);
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = match program.attach_with_options(&device.name, TcAttachType::Ingress, options) {
        Ok(id) => id,
        Err(_occupied) => {
            let link = SchedClassifierLink::attached(&device.name, TcAttachType::Ingress, PRIORITY, HANDLE, None)
                .map_err(kernel("find the tc program of", &device.name))?;
            program.attach_to_link(link).map_err(error())?
        }
    };
    // A filter has no pin: it stays unless it is taken off, which dropping the handle would do.
    std::mem::forget(program.take_link(id).map_err(error())?);
    Ok(())
}
