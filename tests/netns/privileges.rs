//! The agent with the capabilities that its systemd unit has, and no other.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use lb_tests::{
    gateway::{self, Gateway},
    traffic::{Protocol, backend::Backend},
};

use crate::scene::{MATRIX_BOTH_FAMILIES, Scene, backends_of, configuration, lab_with, service_of};

/// What the unit leaves the agent, in the words of `setpriv`: `-all,+bpf,...`.
fn capabilities_of_the_unit() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/xlb.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let set = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = set.expect("a bounding set").split_whitespace();
    let kept: String = names
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    format!("-all{kept}")
}

/// A stand-in for `xlb` that gives up all other capabilities first.
fn restricted(directory: &Path) -> PathBuf {
    let xlb = gateway::binary().expect("the command xlb");
    let set = capabilities_of_the_unit();
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set={set} --inh-caps=-all --no-new-privs {} \"$@\"\n",
        xlb.display()
    );
    let path = directory.join("restricted-xlb");
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("an executable script");
    path
}

#[test]
fn agent_starts_and_restarts_with_the_capabilities_of_its_unit() {
    for cell in MATRIX_BOTH_FAMILIES {
        let lab = lab_with(cell.family);
        let backends = Backend::start_all(&lab.backends).expect("three backends");
        let binary = restricted(&lab.instance().directory().expect("a directory"));
        let configuration = configuration(cell, &backends_of(cell.family));
        let gateway = Gateway::start_binary(&lab, binary, &configuration).expect("an agent");
        let mut scene = Scene {
            gateway,
            backends,
            service: service_of(cell.family),
            lab,
        };
        scene.wait_until_up(3);
        scene.answered(Protocol::Tcp, 30);

        scene.gateway.kill9().expect("a running agent");
        scene.gateway.launch().expect("an agent that takes over");
        assert_eq!(scene.status()["agent"]["adopted"], true, "{cell}");
        scene.wait_until_up(3);
        scene.answered(Protocol::Udp, 30);
    }
}
