//! Inputs of earlier runs, for ordinary tests: the seeds, and what was once found with each target.

use std::{fs, path::Path};

/// Calls `check` with every seed and past crash of `target`, and tells how many there were.
pub(crate) fn replay(target: &str, check: impl Fn(&[u8])) -> usize {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let mut count = 0;
    for folder in ["seeds", "crashes"] {
        let Ok(inputs) = fs::read_dir(fuzz.join(folder).join(target)) else {
            continue;
        };
        for input in inputs {
            let path = input.expect("an entry of the folder").path();
            // Names the culprit if the check fails.
            println!("{}", path.display());
            check(&fs::read(&path).expect("a readable input"));
            count += 1;
        }
    }
    count
}
