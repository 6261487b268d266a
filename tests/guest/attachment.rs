//! What stays attached when the agent goes, what a new one replaces, and what `detach` leaves: links of XDP and tcx, and before Linux
//! 6.6 a filter of tc.
//!
//! The layer `netns` has more of it, with traffic all the while at a rate that an emulated processor does not keep up with.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use aya::programs::{SchedClassifier, TcAttachType};
use lb_common::maps::programs;
use lb_tests::{
    gateway::Gateway,
    names::{BACKEND_1, BACKEND_2, BACKEND_3, TO_BACKENDS, TO_CLIENTS, VIP},
    topology::Lab,
    traffic::{Protocol, backend::Backend, client::Client},
    wait::until,
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn configuration(mode: &str) -> String {
    format!(
        "interfaces:
  - {{name: {TO_CLIENTS}, xdp_mode: {mode}}}
  - {{name: {TO_BACKENDS}, xdp_mode: {mode}}}
services:
  - name: web
    listen: {VIP}:80
    protocol: [tcp, udp]
    health_check: {{type: none}}
    backends: [\"{BACKEND_1}:8080\", \"{BACKEND_2}:8080\", \"{BACKEND_3}:8080\"]
"
    )
}

/// Ids of the programs on an interface of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attached {
    xdp: Option<u32>,
    /// The companion of generic mode.
    tc: Option<u32>,
}

const NOTHING: Attached = Attached { xdp: None, tc: None };

/// A balancer and its backends. The agent goes before the laboratory.
struct Scene {
    gateway: Gateway,
    _backends: Vec<Backend>,
    lab: Lab,
}

impl Scene {
    /// An agent in a laboratory that was prepared for it.
    fn start(mode: &str, prepare: impl FnOnce(&Lab)) -> Self {
        let lab = Lab::start().expect("a laboratory");
        prepare(&lab);
        let backends = Backend::start_all(&lab.backends).expect("backends");
        let gateway = Gateway::start(&lab, &configuration(mode)).expect("an agent");
        Self {
            gateway,
            _backends: backends,
            lab,
        }
    }

    /// Detaches, and waits until nothing is attached: the kernel lets go of an unpinned link a little later.
    fn detach(&self) {
        let mut detach = self.gateway.command(["detach", "--pins"]);
        let output = detach.arg(self.gateway.pins()).output().expect("xlb detach");
        assert!(output.status.success(), "{output:?}");
        until("nothing attached", PATIENCE, || {
            let attached = self.attached();
            ensure!(attached == [NOTHING; 2], "{attached:?}");
            Ok(Some(()))
        })
        .expect("nothing attached");
    }

    /// What is attached, by interface.
    fn attached(&self) -> [Attached; 2] {
        [TO_CLIENTS, TO_BACKENDS].map(|interface| Attached {
            xdp: self.xdp(interface),
            tc: self.companion(interface),
        })
    }

    fn xdp(&self, interface: &str) -> Option<u32> {
        let link = self.lab.gateway.ip(&format!("link show dev {interface}"));
        program_id(
            link.expect("an interface")
                .lines()
                .find(|line| line.contains("prog/xdp"))?,
        )
    }

    /// A tcx program from Linux 6.6 on, else a filter.
    fn companion(&self, interface: &str) -> Option<u32> {
        let name = interface.to_owned();
        let query = move || SchedClassifier::query_tcx(&name, TcAttachType::Ingress);
        let tcx = self.lab.gateway.run(query).expect("a namespace");
        let tcx = tcx.into_iter().flat_map(|(_, programs)| programs);
        let mut ids: Vec<u32> = tcx.map(|program| program.id()).collect();

        let filters = filters(&self.lab, interface);
        ids.extend(
            filters
                .lines()
                .filter(|line| line.contains(programs::TC))
                .filter_map(program_id),
        );
        assert!(ids.len() <= 1, "{interface}: one companion at most: {ids:?}\n{filters}");
        ids.pop()
    }

    /// New connections reach all backends.
    #[track_caller]
    fn assert_forwards(&self) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let client = Client {
                timeout: PATIENCE,
                ..Client::new(&self.lab.clients[0], protocol, (VIP, 80))
            };
            let report = client.requests(30, 3).expect("a client");
            assert_eq!(report.failures(), BTreeMap::new(), "{protocol:?}: {report}");
            assert_eq!(report.by_backend().len(), 3, "{protocol:?}: {report}");
        }
    }
}

/// The filters at tc ingress of an interface of the gateway.
fn filters(lab: &Lab, interface: &str) -> String {
    tc(lab, &["filter", "show", "dev", interface, "ingress"])
}

fn tc(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.gateway.command("tc").args(arguments).output().expect("tc");
    assert!(output.status.success(), "tc {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The number after `id` in a line of `ip` or `tc`.
fn program_id(line: &str) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "id");
    words.nth(1)?.parse().ok()
}

/// Of `before`, each program is replaced by another one.
#[track_caller]
fn assert_replaced(before: [Attached; 2], after: [Attached; 2]) {
    for (before, after) in before.into_iter().zip(after) {
        assert!(after.xdp.is_some() && after.xdp != before.xdp, "{before:?} {after:?}");
        assert_eq!(after.tc.is_some(), before.tc.is_some(), "{before:?} {after:?}");
        assert!(before.tc.is_none() || after.tc != before.tc, "{before:?} {after:?}");
    }
}

/// Start, crash, restart, end, detach.
fn whole_life(mode: &str) {
    let mut scene = Scene::start(mode, |_| {});
    let first = scene.attached();
    for attached in first {
        assert!(attached.xdp.is_some(), "{first:?}");
        assert_eq!(attached.tc.is_some(), mode == "generic", "{first:?}");
    }
    scene.assert_forwards();

    scene.gateway.kill9().expect("the agent dies");
    assert_eq!(scene.attached(), first, "nobody but the agent died");
    scene.assert_forwards();

    scene.gateway.launch().expect("a second agent");
    assert_replaced(first, scene.attached());
    scene.assert_forwards();

    scene.gateway.terminate().expect("the agent ends");
    scene.assert_forwards();
    scene.detach();
}

#[test]
fn native_programs_outlive_the_agent_and_are_replaced_and_detached() {
    whole_life("native");
}

#[test]
fn generic_programs_and_their_companions_outlive_the_agent_and_are_replaced_and_detached() {
    whole_life("generic");
}

#[test]
fn companion_stands_beside_a_foreign_filter_and_goes_without_it() {
    let mut scene = Scene::start("generic", |lab| {
        tc(lab, &["qdisc", "add", "dev", TO_CLIENTS, "clsact"]);
        // Of the same kind and priority: one instruction, which matches nothing.
        let place = [
            "filter", "add", "dev", TO_CLIENTS, "ingress", "protocol", "all", "prio", "1", "handle", "1",
        ];
        tc(lab, &[place.as_slice(), &["bpf", "bytecode", "1,6 0 0 0"]].concat());
    });
    let is_there = |scene: &Scene| filters(&scene.lab, TO_CLIENTS).contains("bytecode");
    assert!(is_there(&scene) && scene.attached()[0].tc.is_some());
    scene.assert_forwards();
    scene.gateway.terminate().expect("the agent ends");
    scene.detach();
    assert!(is_there(&scene), "{}", filters(&scene.lab, TO_CLIENTS));
}
