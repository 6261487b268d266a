//! `xlb demo` as a person or a script runs it.

use std::{
    fs,
    io::Read as _,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use lb_tests::{gateway, wait::until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long until a demo has come to what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(gateway::binary().expect("an xlb"));
    command.args(["demo", "--json"]).args(arguments);
    command
}

/// A demo that is killed when the test fails meanwhile.
struct Demo(Child);

impl Demo {
    fn start() -> Self {
        let child = command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(child.expect("a demo"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id")
    }

    /// Waits until its agent has pinned its maps, and returns its processes.
    fn wait_for_agent(&self) -> Vec<Process> {
        until("an agent of the demo", PATIENCE, || {
            let has_pins = names(self.pid()).iter().any(|name| name.starts_with("/sys/fs/bpf/"));
            let children = children(self.pid());
            let has_agent = children.iter().any(|child| child.command.contains(" run "));
            Ok((has_pins && has_agent).then_some(children))
        })
        .expect("a demo under way")
    }

    /// Waits for its end. It writes too little to fill a pipe.
    fn output(mut self) -> Output {
        let status = self.0.wait().expect("an end");
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let pipes = (self.0.stdout.take(), self.0.stderr.take());
        pipes.0.expect("a pipe").read_to_end(&mut stdout).expect("output");
        pipes.1.expect("a pipe").read_to_end(&mut stderr).expect("messages");
        Output { status, stdout, stderr }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: String,
    command: String,
}

fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: state, parent, ..., start time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Process {
        pid,
        started: fields.nth(18)?.to_owned(),
        command: String::from_utf8_lossy(&command).replace('\0', " "),
    })
}

fn children(pid: i32) -> Vec<Process> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> = lists.flat_map(|list| numbers(&list)).collect();
    pids.into_iter().filter_map(process).collect()
}

fn numbers(list: &str) -> Vec<i32> {
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What a demo with this process id has on this machine.
fn names(pid: i32) -> Vec<String> {
    let prefix = format!("xlb-lab-{pid}-");
    let entries = ["/run/netns", "/sys/fs/bpf", "/run", "/tmp"]
        .into_iter()
        .flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path().display().to_string())
        .collect()
}

#[track_caller]
fn assert_gone(pid: i32, children: &[Process]) {
    assert_eq!(names(pid), [""; 0]);
    for child in children {
        assert_ne!(process(child.pid).as_ref(), Some(child));
    }
}

#[track_caller]
fn summary(output: &Output) -> Value {
    let summary = serde_json::from_slice(&output.stdout);
    assert!(summary.is_ok(), "{output:?}");
    summary.unwrap_or_default()
}

#[track_caller]
fn assert_success(output: &Output) {
    let summary = summary(output);
    assert_eq!(output.status.code(), Some(0), "{summary:#}");
    assert_eq!(summary["success"], true, "{summary:#}");
    assert_eq!(summary["failures"], json!([]));
    for protocol in ["tcp", "udp"] {
        assert_eq!(summary[protocol]["total"], 1000);
        assert_eq!(summary[protocol]["failed"], 0);
        assert_eq!(
            summary[protocol]["by_backend"].as_object().map(serde_json::Map::len),
            Some(3)
        );
    }
    let outage = &summary["outage"];
    assert!(outage["taken_out_milliseconds"].as_u64() <= outage["bound_milliseconds"].as_u64());
    assert_eq!(outage["after"]["failed"], 0);
    assert_eq!(outage["after"]["by_backend"]["2"], Value::Null);
    assert!(summary["recovery"]["requests"]["by_backend"]["2"].as_u64() > Some(0));
    assert_eq!(summary["checksum_errors"], 0);
    assert_eq!(summary["cleaned_up"], true);
}

#[test]
fn demo_succeeds_after_a_killed_one_and_removes_what_that_left() {
    let killed = Demo::start();
    let (pid, children) = (killed.pid(), killed.wait_for_agent());
    // Nobody waits for it yet, as it is where its parent is busy.
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a running demo");

    let demo = Demo::start();
    let own = demo.pid();
    assert_success(&demo.output());
    assert_gone(own, &[]);
    assert_gone(pid, &children);
}

#[test]
fn demo_succeeds_in_the_other_modes() {
    let output = command(&["--forwarding", "full_nat", "--mode", "generic"]).output();
    let output = output.expect("a demo");
    assert_success(&output);
    assert_eq!(summary(&output)["forwarding"], "full_nat");
    assert_eq!(summary(&output)["xdp_mode"], "generic");
}

#[test]
fn interrupted_demo_cleans_up_and_fails() {
    let demo = Demo::start();
    let (pid, children) = (demo.pid(), demo.wait_for_agent());
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a running demo");
    let output = demo.output();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("interrupted"),
        "{output:?}"
    );
    assert_eq!(summary(&output)["success"], false);
    assert_gone(pid, &children);
}

#[test]
fn demo_without_its_agent_fails_and_cleans_up() {
    let demo = Demo::start();
    let (pid, children) = (demo.pid(), demo.wait_for_agent());
    let agent = children.iter().find(|child| child.command.contains(" run "));
    kill(Pid::from_raw(agent.expect("an agent").pid), Signal::SIGKILL).expect("a running agent");
    let output = demo.output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(summary(&output)["success"], false);
    assert_eq!(summary(&output)["cleaned_up"], true);
    assert_gone(pid, &children);
}
