//! A kernel older than those that xlb is made for.

use aya::programs::ProgramError;
use lb_common::maps::programs::{NATIVE, NATIVE_VIRTUAL};

use crate::programs::Maps;

/// What Linux before 5.12 says of an atomic instruction that returns the old value: then there was only one that adds.
const NO_FETCHING_ATOMICS: &str = "BPF_STX uses reserved fields";
/// What Linux before 5.18 says of the flag by which a program takes frames in several pieces (`xdp.frags`): nothing, `EINVAL` before the
/// verifier looks at it.
const NO_FRAGS: &str = "";

#[test]
fn kernel_below_the_floor_refuses_every_program_with_a_known_reason() {
    let mut maps = Maps::new().expect("maps");
    for name in maps.programs() {
        let error = maps.load(&name).expect_err("a kernel before 5.12 refuses the program");
        let words = match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { verifier_log, .. }) => verifier_log.to_string(),
            _ => format!("{error:#}"),
        };
        let reason = words.lines().next().unwrap_or_default();
        let said = if reason.is_empty() { "invalid argument" } else { reason };
        println!("\nrefused by this kernel: {name}: {said}");
        let expected = if [NATIVE, NATIVE_VIRTUAL].contains(&name.as_str()) {
            NO_FRAGS
        } else {
            NO_FETCHING_ATOMICS
        };
        assert_eq!(reason, expected, "{name}: {words}");
    }
}
