//! Running frames through a program.

use std::fs;

use anyhow::Result;
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use lb_tests::{
    names::TO_BACKENDS,
    packet::Packet,
    program::{Action, RunOptions, run},
    raw_program::{Instruction, RawProgram},
    topology::Lab,
};

/// Offset of `ingress_ifindex` in `struct xdp_md`.
const INGRESS_INDEX: i16 = 12;

#[test]
fn frame_comes_back_with_the_action_and_the_program_sees_its_interface() -> Result<()> {
    let lab = Lab::start()?;
    fs::create_dir(lab.pins())?;
    let load = |name: &str, program: RawProgram| -> Result<Xdp> {
        let path = lab.pins().join(name);
        program.pin(&path)?;
        Ok(Xdp::from_pin(&path, XdpAttachType::Interface)?)
    };
    let frame = Packet::tcp().payload(b"data").build();

    let pass = load("pass", RawProgram::pass()?)?;
    let outcome = run(&pass, &frame, RunOptions::default())?;
    assert_eq!(outcome.action, Action::Pass);
    assert_eq!(outcome.frame, frame);
    assert!(
        run(&pass, &frame[..13], RunOptions::default()).is_err(),
        "less than an ethernet header"
    );

    let show_interface = RawProgram::load(&[Instruction::load_context(INGRESS_INDEX), Instruction::EXIT])?;
    let show_interface = load("interface", show_interface)?;
    let index = lab.gateway.interface_index(TO_BACKENDS)?;
    let options = RunOptions {
        ingress: Some(index),
        queue: 1,
        repeat: 1,
    };
    let outcome = lab.gateway.run(|| run(&show_interface, &frame, options))??;
    assert_eq!(outcome.action, Action::from(index));
    assert!(
        run(&show_interface, &frame, options).is_err(),
        "that interface is in another namespace"
    );
    Ok(())
}
