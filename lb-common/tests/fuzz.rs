//! Seeds and past findings of the fuzz targets in `tests/fuzz` that are about packets. `cargo xtask fuzz` looks for new ones.

#[path = "../../tests/fuzz/properties/address.rs"]
mod address;
#[path = "../../tests/fuzz/properties/checksum.rs"]
mod checksum;
#[path = "../../tests/fuzz/properties/parse.rs"]
mod parse;
#[path = "../../tests/fuzz/properties/port_pick.rs"]
mod port_pick;
#[path = "../../tests/fuzz/properties/port_prefix.rs"]
mod port_prefix;
#[path = "../../tests/fuzz/properties/replay.rs"]
mod replay;
#[path = "../../tests/fuzz/properties/rfc_1071.rs"]
mod rfc_1071;

use replay::replay;

#[test]
fn known_addresses_agree_with_the_standard_library() {
    assert!(replay("address", address::check) > 0);
}

#[test]
fn known_packets_have_right_checksums() {
    assert!(replay("checksum", checksum::check) > 0);
}

#[test]
fn known_picks_are_ports_that_are_left() {
    assert!(replay("port_pick", port_pick::check) > 0);
}

#[test]
fn known_ranges_are_covered_by_prefixes() {
    assert!(replay("port_prefix", port_prefix::check) > 0);
}

#[test]
fn known_frames_are_read_as_the_standards_draw_them() {
    assert!(replay("parse", parse::check) > 0);
}
