//! The agent's logic on data planes in memory, told as scripts: see `scripts/README.md`.
//!
//! Every reconciliation of every script is also played with faults: each of its writes fails once, the rules that no packet may
//! see broken are checked on what is left behind, and the next attempt has to reach the same end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "reconciler/script.rs"]
mod script;
#[path = "reconciler/world.rs"]
mod world;

use std::{collections::BTreeSet, env, fs, path::Path};

use self::world::World;

/// Plays the script of this name and compares its output. With `UPDATE_SCRIPTS=1` it writes the output into the file instead.
fn play(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/scripts/{name}.txt"));
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut world = World::new();
    let actual = script::play(&expected, |command| world.execute(command));
    if env::var_os("UPDATE_SCRIPTS").is_some() {
        fs::write(&path, actual).unwrap();
        return;
    }
    assert!(
        actual == expected,
        "{name}.txt: output differs\n{}",
        script::difference(&expected, &actual)
    );
}

macro_rules! scripts {
    ($($name:ident,)+) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),+];
        $(
            #[test]
            fn $name() {
                play(stringify!($name));
            }
        )+
    };
}

scripts! {
    adding_a_backend_writes_it_before_its_slots,
    all_down_drop_leaves_no_slots,
    all_down_forward_to_all_keeps_traffic_flowing,
    both_families_have_the_same_features,
    direct_backends_must_be_on_link,
    echo_requests_are_the_kernels_while_it_owns_the_vip,
    health_flap_moves_only_that_backend,
    ids_run_out_loudly_and_come_back,
    interfaces_follow_the_host,
    leftovers_are_pruned,
    listeners_exchanged_by_services_never_mix_backends,
    next_hops_follow_the_network,
    pool_and_settings_are_kept_consistent,
    ranges_change_without_a_gap,
    ranges_divided_between_services_never_mix_backends,
    removed_backend_keeps_its_id_while_it_has_connections,
    renamed_service_keeps_ids_and_health,
    restart_changes_nothing,
    service_is_removed_from_the_outside_in,
    weight_change_rewrites_slots_only,
}

#[test]
fn every_script_is_played() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".txt")?.to_owned()))
        .collect();
    let played: BTreeSet<String> = SCRIPTS.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(files, played);
}
