//! Bytes for `properties/port_pick.rs`.

#![no_main]

#[path = "../properties/port_pick.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::check(data));
