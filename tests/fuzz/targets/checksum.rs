//! Bytes for `properties/checksum.rs`.

#![no_main]

#[path = "../properties/checksum.rs"]
mod property;
#[path = "../properties/rfc_1071.rs"]
mod rfc_1071;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
