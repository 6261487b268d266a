//! Bytes for `properties/address.rs`.

#![no_main]

#[path = "../properties/address.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
