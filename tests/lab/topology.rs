//! The namespaces: that they are connected, and that nothing of them remains.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_tests::{
    leftovers::{Instance, remove_leftovers},
    names::{self, TO_BACKENDS, TO_CLIENTS},
    topology::{Lab, LabOptions},
    traffic::backend,
    wait::until_true,
};

/// Everything on this machine that carries the instance in its name.
fn traces(instance: Instance) -> Vec<String> {
    let names = ["/run/netns", "/sys/fs/bpf", "/run"]
        .into_iter()
        .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten())
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| Instance::of_name(name) == Some(instance)).collect()
}

#[test]
fn both_devices_of_a_link_have_two_queues_and_the_router_end_receives_natively() -> Result<()> {
    let lab = Lab::start()?;
    for (namespace, device) in [
        (&lab.clients[0], "eth0"),
        (&lab.client_router, "uplink"),
        (&lab.gateway, TO_CLIENTS),
        (&lab.gateway, TO_BACKENDS),
        (&lab.backend_router, "uplink"),
        (&lab.backends[2], "eth0"),
    ] {
        let link = namespace.ip(&format!("-d link show dev {device}"))?;
        assert!(
            link.contains("numtxqueues 2") && link.contains("numrxqueues 2"),
            "{device}: {link}"
        );
        assert_eq!(link.contains("prog/xdp "), device == "uplink", "{device}: {link}");
    }
    Ok(())
}

#[test]
fn vip_belongs_to_the_gateway_only_if_asked_for() -> Result<()> {
    for owned in [true, false] {
        let lab = Lab::with(LabOptions {
            gateway_owns_vip: owned,
            clients: 1,
            backends: 1,
            ..LabOptions::default()
        })?;
        assert_eq!(lab.clients.len() + lab.backends.len(), 2);
        // Nothing listens: the owner refuses, a gateway without a route says so.
        let connect = || std::net::TcpStream::connect((names::VIP, 80));
        let error = lab.clients[0].run(connect)?.expect_err("nobody listens");
        let expected = if owned {
            std::io::ErrorKind::ConnectionRefused
        } else {
            std::io::ErrorKind::NetworkUnreachable
        };
        assert_eq!(error.kind(), expected, "owned: {owned}");
    }
    Ok(())
}

#[test]
fn ipv6_is_off_unless_asked_for_and_usable_at_once() -> Result<()> {
    for ipv6 in [false, true] {
        let lab = Lab::with(LabOptions {
            ipv6,
            clients: 1,
            backends: 1,
            ..LabOptions::default()
        })?;
        for namespace in lab.namespaces() {
            let addresses = namespace.ip("-6 -oneline address show")?;
            assert_eq!(
                addresses.contains("2001:db8"),
                ipv6,
                "{}: {addresses}",
                namespace.name()
            );
            assert_eq!(addresses.is_empty(), !ipv6, "{}: {addresses}", namespace.name());
            let unfinished = ["tentative", "dadfailed", "dynamic"].map(|word| addresses.contains(word));
            assert_eq!(unfinished, [false; 3], "{}: {addresses}", namespace.name());
        }
    }
    Ok(())
}

#[test]
fn nothing_remains_after_drop() -> Result<()> {
    let lab = Lab::start()?;
    let instance = lab.instance();
    fs::create_dir(lab.pins())?;
    fs::write(instance.directory()?.join("file"), "content")?;
    let mut forgotten = lab.backends[0].command("sleep").arg("60").spawn()?;
    assert_eq!(traces(instance).len(), 8 + 2, "{:?}", traces(instance));
    drop(lab);
    assert_eq!(traces(instance), [""; 0]);
    assert!(!forgotten.wait()?.success(), "the process in a namespace was ended");
    Ok(())
}

#[test]
fn nothing_remains_after_a_panic() -> Result<()> {
    let mut instance = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::start().expect("a laboratory");
        instance = Some(lab.instance());
        assert_eq!(traces(lab.instance()).len(), 8);
        panic::resume_unwind(Box::new("test"));
    }));
    assert!(result.is_err());
    let instance = instance.context("the laboratory started")?;
    assert_eq!(traces(instance), [""; 0]);
    Ok(())
}

#[test]
fn leftovers_of_a_killed_run_are_removed_with_their_processes() -> Result<()> {
    let mut run = Command::new(backend::binary()?)
        .arg("up")
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = run.stdout.take().context("piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next().context("a line for each namespace")??;
    let name = line.rsplit('/').next().context("a path")?;
    let instance = Instance::of_name(name).with_context(|| format!("no instance in {line}"))?;
    assert_eq!(traces(instance).len(), 8);
    let orphans = processes_of_the_backends(instance)?;
    assert_eq!(orphans.len(), 3, "one process in the namespace of each backend");

    run.kill()?;
    run.wait()?;
    // Another test that starts at this moment may be the one that removes it.
    remove_leftovers()?;
    until_true("end of the killed laboratory", Duration::from_secs(10), || {
        traces(instance).is_empty()
    })?;
    for process in orphans {
        until_true("end of its processes", Duration::from_secs(10), || {
            !Path::new("/proc").join(&process).join("exe").exists()
        })?;
    }
    Ok(())
}

fn processes_of_the_backends(instance: Instance) -> Result<Vec<String>> {
    let mut processes = Vec::new();
    for number in 1..=3 {
        let name = instance.namespace_name(&format!("backend{number}"));
        let output = Command::new("ip").args(["netns", "pids", &name]).output()?;
        let pids = String::from_utf8(output.stdout)?;
        processes.extend(pids.split_whitespace().map(str::to_owned));
    }
    Ok(processes)
}
