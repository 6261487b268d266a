//! A kernel older than those that xlb is made for.

use aya::programs::ProgramError;

use crate::programs::Maps;

/// What Linux before 5.12 says of an atomic instruction that returns the old value: then there was only one that adds.
const NO_FETCHING_ATOMICS: &str = "BPF_STX uses reserved fields";

#[test]
fn kernel_without_fetching_atomics_refuses_every_program_with_that_reason() {
    let mut maps = Maps::new().expect("maps");
    for name in maps.programs() {
        let error = maps.load(&name).expect_err("a kernel before 5.12 refuses the program");
        let words = match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { verifier_log, .. }) => verifier_log.to_string(),
            _ => format!("{error:#}"),
        };
        let reason = words.lines().next().unwrap_or_default();
        println!("\nrefused by this kernel: {name}: {reason}");
        assert_eq!(reason, NO_FETCHING_ATOMICS, "{name}: {words}");
    }
}
