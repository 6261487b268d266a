//! Bytes for `properties/port_prefix.rs`.

#![no_main]

#[path = "../properties/port_prefix.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
