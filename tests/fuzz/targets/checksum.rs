//! Bytes for `properties/checksum.rs`.

#![no_main]

#[path = "../properties/checksum.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
