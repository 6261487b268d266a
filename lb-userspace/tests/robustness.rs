//! Content that no editor would leave: empty, cut, nested, endless, mutated at random. It is refused with a place and a remedy, or
//! makes a valid model; it never panics. `cargo xtask fuzz config` goes on where this file ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do, by panicking")]

use std::{fs, path::Path};

use proptest::prelude::*;
use xlb::config::{self, ConfigError};

#[path = "../../tests/fuzz/properties/config.rs"]
mod property;
#[path = "../../tests/fuzz/properties/replay.rs"]
mod replay;

fn file(path: &str) -> String {
    fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/configs")
            .join(path),
    )
    .unwrap()
}

fn refuse(content: impl AsRef<[u8]>) -> ConfigError {
    config::parse("x.yaml", content).expect_err("must be refused")
}

#[test]
fn every_file_here_is_refused_or_makes_a_valid_model() {
    replay::replay("config", property::check);
    for folder in ["valid", "broken"] {
        let files = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/configs")
            .join(folder);
        for entry in fs::read_dir(files).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            property::check(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn empty_files_are_refused() {
    for content in ["", "\n\n", "# nothing but a comment\n", "---\n", "~\n", "\u{feff}"] {
        let error = refuse(content);
        assert_eq!(error.errors.len(), 1, "{content:?}: {error}");
    }
}

#[test]
fn bytes_that_are_no_utf8_have_a_place() {
    let error = refuse(b"interfaces: [eth0]\nservices: \xff\n");
    assert_eq!(
        error.to_string(),
        "x.yaml:2:11: byte 0xff is not UTF-8; save the file as UTF-8"
    );
}

#[test]
fn long_values_make_short_messages() {
    let long = "a".repeat(1_000_000);
    for content in [
        long.clone(),
        format!("interfaces: [{long}]"),
        format!("services: {long}"),
    ] {
        let error = refuse(&content);
        assert!(error.to_string().len() < 1_000, "{} bytes", error.to_string().len());
    }
}

#[test]
fn deep_nesting_is_refused() {
    for content in ["[".repeat(200_000), "- ".repeat(200_000), "{a: ".repeat(200_000)] {
        let error = refuse(&content);
        let message = &error.errors[0].message;
        assert!(
            message.contains("nested") || message.contains("recursion limit"),
            "{message}"
        );
    }
}

#[test]
fn aliases_cannot_blow_up_a_small_file() {
    let mut content = "interfaces: [eth0]\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for level in 1..20 {
        let below = format!("*x{}, ", level - 1).repeat(10);
        content += &format!("x{level}: &x{level} [{below}]\n");
    }
    let error = refuse(&content);
    assert!(error.errors[0].message.contains("too many values"), "{error}");
    let error = refuse("services: &loop [*loop]\n");
    assert!(error.errors[0].message.contains("around itself"), "{error}");
}

/// What a mutation puts into a file: the characters and words that mean something to YAML or to the schema.
fn fragment() -> impl Strategy<Value = String> {
    let punctuation = [
        "", "\n", "\t", " ", "  ", "-", "- ", ":", ": ", "[", "]", "{", "}", ",", "? ", "#", "'", "\"", "\\", "|\n",
        ">-\n",
    ];
    let features = [
        "&a ",
        "*a",
        "<<: *a",
        "!!str ",
        "!x ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\u{feff}",
        "\u{0}",
        "\u{2028}",
        "\u{7f}",
        "é",
        "🦀",
    ];
    let values = [
        "~",
        "null",
        "true",
        ".inf",
        ".nan",
        "-0",
        "0x",
        "1e400",
        "80:80",
        "0.0.0.0:0",
        "[::1]:1",
        "2001:db8::1",
        "10.0.0.1:*",
        "1-65535",
        "300ms",
        "99999999999999999999999999999999999999999999",
        "-170141183460469231731687303715884105729",
    ];
    let keys = ["weight: ", "services:\n", "name: ", "listen: "];
    let words = [&punctuation[..], &features[..], &values[..], &keys[..]].concat();
    prop_oneof![
        4 => prop::sample::select(words).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_mutation_of_a_file_panics(
        source in prop::sample::select(vec!["valid/everything", "valid/addresses", "valid/warnings", "broken/44-several-mistakes-at-once"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, fragment()), 1..6),
    ) {
        let mut content: Vec<char> = file(&format!("{source}.yaml")).chars().collect();
        for (at, length, fragment) in edits {
            let at = at.index(content.len() + 1);
            let end = (at + length).min(content.len());
            content.splice(at..end, fragment.chars());
        }
        property::check(content.into_iter().collect::<String>().as_bytes());
    }

    #[test]
    fn no_bytes_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        property::check(&content);
    }

    #[test]
    fn no_sequence_of_fragments_panics(content in prop::collection::vec(fragment(), 0..60)) {
        property::check(content.concat().as_bytes());
    }
}
