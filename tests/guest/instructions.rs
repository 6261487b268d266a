//! What the programs cost the verifier.

use crate::programs::Maps;

/// Instructions that the kernel's verifier follows at most, over all paths, before it refuses a program.
const VERIFIER_LIMIT: u32 = 1_000_000;

#[test]
fn every_program_is_verified_within_half_of_the_limit() {
    let mut maps = Maps::new().expect("maps");
    for name in maps.programs() {
        let program = maps.load(&name).expect("the verifier takes the program");
        let info = program.info().expect("the kernel describes the program");
        let count = info.verified_instruction_count();
        let count = count.expect("Linux 5.16 or newer tells what was verified");
        println!("\nverified instructions: {name} {count}");
        assert!(count <= VERIFIER_LIMIT / 2, "{name}: {count}");
    }
}
