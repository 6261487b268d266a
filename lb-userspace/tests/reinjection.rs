//! Frames put back into an interface, with the real kernel.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{geteuid, getpid},
};
use xlb::{
    dataplane::{
        aya::{AyaDataplane, Device, Options, remove_all},
        pins::Pins,
    },
    model::XdpMode,
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Long enough for any machine; a datagram that arrives ends the wait at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// A UDP datagram without a checksum, 10.0.0.2:4000 to 10.0.0.1:5000, about as long as what is held can be.
fn frame() -> Vec<u8> {
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let ip = [
        0x45, 0, 0x07, 0x88, 0, 0, 0, 0, 64, 17, 0x5f, 0x63, 10, 0, 0, 2, 10, 0, 0, 1,
    ];
    let udp = [0x0f, 0xa0, 0x13, 0x88, 0x07, 0x74, 0, 0];
    [&ethernet[..], &ip, &udp, &[7; 1900]].concat()
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Removes what is pinned with the test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Ok(Some(pins)) = Pins::open(&self.0) {
            let _nobody_to_tell = remove_all(pins, &[]);
        }
    }
}

fn put_back_and_receive() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    run("ip link add near0 type veth peer name far0");
    run("ip link set near0 address 02:00:00:00:00:01");
    run("ip address add 10.0.0.1/24 dev near0");
    run("ip link set near0 up");
    run("ip link set far0 up");
    let socket = UdpSocket::bind((OWN, 5000)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    let directory = Directory(PathBuf::from(format!("/sys/fs/bpf/xlb-reinjection-{}", getpid())));
    let options = Options {
        max_connections: 1,
        max_half_open: 1,
    };
    let mut dataplane = AyaDataplane::open(Pins::create(&directory.0).unwrap(), options).unwrap();
    let device = Device {
        name: "near0".to_owned(),
        ifindex: nix::net::if_::if_nametoindex("near0").unwrap(),
        is_virtual: true,
        is_tun: false,
    };
    let reinjection = dataplane.reinjection(&device, XdpMode::Generic).unwrap();
    reinjection.run(device.ifindex, &frame()).unwrap();
    let mut received = [0; 2048];
    let (length, sender) = socket.recv_from(&mut received).unwrap();
    assert_eq!((&received[..length], sender), (&[7; 1900][..], (PEER, 4000).into()));
    let gone = reinjection.run(9999, &[0; 60]).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn frame_put_back_is_received_on_its_interface() {
    if !geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    if let Err(panic) = thread::spawn(put_back_and_receive).join() {
        std::panic::resume_unwind(panic);
    }
}
