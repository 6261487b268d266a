//! What an agent finds when it starts, and what it leaves when it can't or when it is told to go.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::{maps, settings::Settings};
use lb_tests::{
    gateway::{Gateway, binary},
    raw_program::{RawLink, RawProgram},
    topology::Lab,
    traffic::Protocol,
    wait::{until, until_true},
};
use xlb::dataplane::{
    aya::{AyaDataplane, Options},
    pins::Pins,
};

use crate::scene::{Cell, MATRIX, PATIENCE, Scene, all_backends, configuration};

/// Runs a command that must end by itself with exit code 1 and one line, which is returned.
#[track_caller]
fn refused(mut command: Command) -> String {
    let mut child = command
        .env("XLB_LOG", "off")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a command");
    let ended = until("the end of xlb", PATIENCE, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill().expect("a running command");
    }
    let output = child.wait_with_output().expect("its output");
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(ended.is_ok(), "it was not refused: {text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// `xlb run` with the configuration of a gateway and other pins.
fn run(gateway: &Gateway, pins: &Path) -> Command {
    let mut command = gateway.command(["run", "-c"]);
    command
        .arg(gateway.socket().with_file_name("xlb.yaml"))
        .arg("--pins")
        .arg(pins);
    command
}

/// Names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort_unstable();
    names
}

/// The XDP programs and tc filters on the gateway's interfaces.
fn attached(lab: &Lab) -> String {
    let links = lab.gateway.ip("link show").expect("links");
    let xdp: Vec<&str> = links.lines().filter(|line| line.contains("xdp")).collect();
    let mut text = xdp.join("\n");
    for interface in ["clients", "backends"] {
        let filters = lab
            .gateway
            .command("tc")
            .args(["filter", "show", "dev", interface, "ingress"])
            .output();
        text += &String::from_utf8_lossy(&filters.expect("tc").stdout);
    }
    text
}

/// A laboratory with an agent that is gone, its data plane and its connections.
fn orphaned(cell: Cell) -> Scene {
    let mut scene = Scene::start(cell);
    scene.gateway.kill9().expect("the agent dies");
    scene
}

/// The pins can't be adopted, for a reason with `expected` in it; traffic goes on as before.
#[track_caller]
fn assert_refused(scene: &Scene, expected: &[&str]) {
    let before = (names(scene.gateway.pins()), attached(&scene.lab));
    let line = refused(run(&scene.gateway, scene.gateway.pins()));
    for part in expected {
        assert!(line.contains(part), "{part:?} is missing: {line}");
    }
    assert_eq!((names(scene.gateway.pins()), attached(&scene.lab)), before);
    assert_eq!(scene.answered(Protocol::Tcp, 30).len(), 3);
}

/// Puts something else in the place of a pinned map while `work` runs.
fn with_impostor(scene: &Scene, name: &str, pin: impl FnOnce(&Path), work: impl FnOnce()) {
    let path = scene.gateway.pins().join(name);
    let aside = scene.gateway.pins().join("aside");
    fs::rename(&path, &aside).expect("the map is put aside");
    pin(&path);
    work();
    if path.exists() {
        fs::remove_file(&path).expect("the impostor goes");
    }
    fs::rename(&aside, &path).expect("the map comes back");
}

fn set_layout(scene: &Scene, change: impl FnOnce(u32) -> u32) {
    let pinned = MapData::from_pin(scene.gateway.pins().join(maps::SETTINGS)).expect("the settings");
    let mut map: Array<_, Settings> = Array::try_from(Map::Array(pinned)).expect("an array");
    let mut settings = map.get(&0, 0).expect("settings");
    settings.layout = change(settings.layout);
    map.set(0, settings, 0).expect("written settings");
}

#[test]
fn pins_that_do_not_fit_are_refused_and_left_alone() {
    let mut scene = orphaned(MATRIX[0]);
    let remedy = "xlb detach";
    with_impostor(
        &scene,
        maps::LISTENERS_V4,
        |path| pin_array::<u32>(path, 65_536),
        || assert_refused(&scene, &[maps::LISTENERS_V4, "does not fit", remedy]),
    );
    with_impostor(
        &scene,
        maps::HALF_OPEN,
        |path| pin_array::<u32>(path, 1),
        || assert_refused(&scene, &[maps::HALF_OPEN, "value_size: 4", "value_size: 8", remedy]),
    );
    with_impostor(
        &scene,
        maps::HALF_OPEN,
        |path| pin_array::<u64>(path, 2),
        || assert_refused(&scene, &[maps::HALF_OPEN, "max_entries: 2", remedy]),
    );
    with_impostor(
        &scene,
        maps::SERVICES,
        |path| RawProgram::pass().expect("a program").pin(path).expect("a pin"),
        || assert_refused(&scene, &[maps::SERVICES, "it is not a map", remedy]),
    );
    with_impostor(
        &scene,
        maps::CURSORS,
        |_nothing| {},
        || assert_refused(&scene, &[maps::CURSORS, "missing", remedy]),
    );
    set_layout(&scene, |layout| layout + 1);
    assert_refused(&scene, &[maps::SETTINGS, "layout version", remedy]);
    set_layout(&scene, |layout| layout - 1);

    scene.gateway.launch().expect("an agent, now that all is as it was");
    assert_eq!(scene.status()["agent"]["adopted"], true);
}

fn pin_array<T: aya::Pod>(path: &Path, entries: u32) {
    Array::<MapData, T>::create(entries, 0)
        .expect("a map")
        .pin(path)
        .expect("a pin");
}

#[test]
fn pin_directory_that_others_could_change_is_refused() {
    let scene = orphaned(MATRIX[0]);
    let pins = scene.gateway.pins();
    fs::set_permissions(pins, fs::Permissions::from_mode(0o777)).expect("a mode");
    assert_refused(&scene, &["mode is 0777, expected 0700"]);
    fs::set_permissions(pins, fs::Permissions::from_mode(0o700)).expect("a mode");
    chown(pins, Some(65_534), None).expect("an owner");
    assert_refused(&scene, &["belongs to user 65534"]);
    chown(pins, Some(0), None).expect("an owner");
}

#[test]
fn missing_bpf_file_system_is_named_with_its_remedy() {
    let scene = orphaned(MATRIX[0]);
    let without_bpffs = |arguments: &[&str]| {
        let mut command = scene.lab.gateway.command("unshare");
        let script = "umount /sys/fs/bpf && exec \"$0\" \"$@\"";
        command
            .args(["--mount", "sh", "-c", script])
            .arg(run(&scene.gateway, Path::new("/")).get_program());
        command.args(arguments).arg("--pins").arg(scene.gateway.pins());
        refused(command)
    };
    let configuration = scene.gateway.socket().with_file_name("xlb.yaml");
    for arguments in [&["run", "-c", configuration.to_str().expect("a path")][..], &["detach"]] {
        let line = without_bpffs(arguments);
        assert!(line.contains("mount -t bpf bpf /sys/fs/bpf"), "{line}");
    }
    assert_eq!(scene.answered(Protocol::Tcp, 30).len(), 3);
}

#[test]
fn second_agent_is_refused_and_the_first_goes_on() {
    let scene = Scene::start(MATRIX[0]);
    let line = refused(run(&scene.gateway, &scene.lab.instance().pins().with_extension("")));
    assert!(line.contains("another xlb runs with this socket"), "{line}");
    // Another socket, the same pins.
    let file = scene.gateway.socket().with_file_name("second.yaml");
    let text = configuration(MATRIX[0], &all_backends());
    let socket = scene.gateway.socket().with_file_name("second.sock");
    fs::write(&file, format!("api:\n  socket: {}\n{text}", socket.display())).expect("a file");
    let mut second = scene.gateway.command(["run", "-c"]);
    second.arg(&file).arg("--pins").arg(scene.gateway.pins());
    let line = refused(second);
    assert!(line.contains("is in use by a running xlb"), "{line}");
    assert!(!socket.exists(), "it takes its socket along");
    // Nor is the data plane taken away from under it.
    let mut detach = scene.gateway.command(["detach", "--pins"]);
    detach.arg(scene.gateway.pins());
    let line = refused(detach);
    assert!(line.contains("is in use by a running xlb"), "{line}");
    assert_eq!(scene.answered(Protocol::Tcp, 30).len(), 3);
    scene.wait_until_up(3);
}

/// What `ip` knows of the gateway: addresses, routes, rules, and whatever else is on its interfaces.
fn surroundings(lab: &Lab) -> Vec<String> {
    let ip = |arguments| lab.gateway.ip(arguments).expect("ip");
    vec![
        ip("address show"),
        ip("route show table all"),
        ip("rule show"),
        ip("-details link show extra"),
    ]
}

/// One more interface of the gateway, with somebody else's XDP program.
fn foreign_program(lab: &Lab) -> RawLink {
    lab.gateway
        .ip("link add extra type veth peer name extra-peer")
        .expect("a pair of interfaces");
    let index = lab.gateway.interface_index("extra").expect("an index");
    let program = RawProgram::pass().expect("a program");
    lab.gateway
        .run(|| program.attach(index))
        .expect("a namespace")
        .expect("a link")
}

#[test]
fn detach_removes_what_is_xlbs_and_nothing_else() {
    for cell in [MATRIX[2], MATRIX[3]] {
        let lab = Lab::start().expect("a laboratory");
        let _foreign = foreign_program(&lab);
        let neighbour = lab
            .instance()
            .pins()
            .with_file_name(format!("{}-neighbour", lab.instance()));
        fs::create_dir(&neighbour).expect("somebody else's pins");
        RawProgram::pass()
            .expect("a program")
            .pin(&neighbour.join("program"))
            .expect("a pin");
        let before = (attached(&lab), surroundings(&lab));

        let mut gateway = Gateway::start(&lab, &configuration(cell, &all_backends())).expect("an agent");
        assert_ne!(attached(&lab), before.0, "{cell}");
        gateway.terminate().expect("the agent ends");
        let detach = || {
            let mut command = gateway.command(["detach", "--pins"]);
            let output = command.arg(gateway.pins()).output().expect("xlb detach");
            assert!(output.status.success(), "{cell}: {output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let said = detach();
        assert!(said.contains("clients") && said.contains("backends"), "{cell}: {said}");
        // The kernel lets go of a link in the background, after the last pin of it was removed.
        let now = || (attached(&lab), surroundings(&lab));
        if until_true("everything as before", PATIENCE, || now() == before).is_err() {
            assert_eq!(now(), before, "{cell}");
        }
        assert!(!gateway.pins().exists(), "{cell}");
        assert_eq!(names(&neighbour), ["program"], "{cell}");
        assert!(detach().contains("nothing is attached"), "{cell}");
    }
}

/// The configuration with a socket in the laboratory's directory.
fn with_socket(configuration: &str) -> String {
    format!("api:\n  socket: SOCKET\n{configuration}")
}

/// Starts an agent that must be refused; returns the line, after checking that it left nothing. Without a [`Gateway`], which would
/// clean up.
#[track_caller]
fn refused_at_first_start(lab: &Lab, configuration: &str) -> String {
    let before = attached(lab);
    let directory = lab.instance().directory().expect("a directory");
    let (file, socket) = (directory.join("xlb.yaml"), directory.join("xlb.sock"));
    fs::write(&file, configuration.replace("SOCKET", &socket.display().to_string())).expect("a file");
    let mut command = lab.gateway.command(binary().expect("an xlb"));
    command.args(["run", "-c"]).arg(&file).arg("--pins").arg(lab.pins());
    let line = refused(command);
    assert_eq!(attached(lab), before, "{line}");
    assert!(!lab.pins().exists(), "{line}");
    assert!(!socket.exists(), "{line}");
    line
}

#[test]
fn interface_with_a_foreign_program_is_left_alone() {
    let lab = Lab::start().expect("a laboratory");
    let _foreign = foreign_program(&lab);
    for mode in ["auto", "native", "generic"] {
        let configuration = with_socket(&configuration(MATRIX[1], &all_backends())).replace(
            "services:\n",
            &format!("  - {{name: extra, xdp_mode: {mode}}}\nservices:\n"),
        );
        let line = refused_at_first_start(&lab, &configuration);
        assert!(
            line.contains("extra already has an XDP program that is not xlb's"),
            "{mode}: {line}"
        );
        let extra = lab.gateway.ip("link show dev extra").expect("an interface");
        assert!(extra.contains(" xdp "), "{mode}: {extra}");
        let filters = lab
            .gateway
            .command("tc")
            .args(["filter", "show", "dev", "extra", "ingress"])
            .output();
        assert!(
            filters.expect("tc").stdout.is_empty(),
            "{mode}: no filter is left on it"
        );
    }
}

#[test]
fn failed_first_start_leaves_nothing() {
    let lab = Lab::start().expect("a laboratory");
    let good = configuration(MATRIX[0], &all_backends());
    let line = refused_at_first_start(&lab, &with_socket(&good).replace("name: backends", "name: nowhere"));
    assert!(
        line.contains("interface nowhere does not exist; there are: lo, "),
        "{line}"
    );
    // The directory of the socket is a file.
    let line = refused_at_first_start(&lab, &format!("api:\n  socket: /dev/null/xlb.sock\n{good}"));
    assert!(line.contains("/dev/null/xlb.sock"), "{line}");
}

#[test]
fn leftovers_of_an_unfinished_start_are_cleaned_up() {
    let lab = Lab::start().expect("a laboratory");
    let pins = lab.pins();
    let options = Options {
        max_connections: 1000,
        max_half_open: 100,
    };
    // As an agent leaves it that dies while it pins its maps: nothing is attached, no settings are written.
    drop(AyaDataplane::open(Pins::create(&pins).expect("a directory"), options).expect("maps"));
    let removed: Vec<PathBuf> = [maps::VERDICTS, maps::SETTINGS].map(|name| pins.join(name)).into();
    removed
        .iter()
        .try_for_each(fs::remove_file)
        .expect("the last ones were not reached");

    let gateway = Gateway::start(&lab, &configuration(MATRIX[0], &all_backends())).expect("an agent");
    let status = gateway.status().expect("a status");
    assert_eq!(status["agent"]["adopted"], false);
    let table = MapInfo::from_pin(pins.join(maps::CONNECTIONS_V4)).expect("the connection table");
    assert_eq!(
        table.max_entries(),
        2 * (262_144 + 65_536),
        "it has the size that is configured"
    );
    assert!(
        gateway.log().contains("removing the pins of an unfinished start"),
        "{}",
        gateway.log()
    );
    assert!(
        names(gateway.pins()).len() > maps::ALL.len(),
        "all maps and links are there"
    );
}
