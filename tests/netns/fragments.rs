//! Datagrams that come in fragments, whatever their order: the agent keeps those that come too early.

use lb_tests::{
    cell::MATRIX_BOTH_FAMILIES,
    diff::endpoints,
    packet::{Packet, fragments},
    raw_socket::RawSocket,
    wait::until_true,
};

use crate::scene::{PATIENCE, Scene};

/// The first client, with its own frames.
struct Client<'a> {
    scene: &'a Scene,
    socket: RawSocket,
}

impl<'a> Client<'a> {
    fn new(scene: &'a Scene) -> Self {
        let socket = RawSocket::open(&scene.lab.clients[0], "eth0").expect("a socket for frames");
        Self { scene, socket }
    }

    /// A question to the service in three fragments. Backends answer with the number that it is.
    fn question(&self, port: u16, id: u32) -> Vec<Vec<u8>> {
        let lab = &self.scene.lab;
        let own = lab.clients[0].mac("eth0").expect("a device");
        let router = lab.client_router.mac("lan").expect("a device");
        let service = self.scene.service;
        let client = lb_tests::names::Family::of(service.ip()).client(1);
        let datagram = Packet::udp().from(client, port).to(service.ip(), service.port());
        let datagram = datagram.payload(format!("{:>1300}", 7).as_bytes());
        fragments(&datagram.ethernet(own, router).build(), &[512, 1024], id)
    }

    /// Sends the fragments in this order.
    fn send(&self, fragments: &[Vec<u8>], order: &[usize]) {
        for index in order {
            self.socket.send(&fragments[*index]).expect("a frame is sent");
        }
    }

    /// Waits for the answer to this port.
    fn answered(&self, port: u16) -> bool {
        let service = self.scene.service;
        let is_answer = |frame: &[u8]| endpoints(frame).is_some_and(|(from, to)| from == service && to.port() == port);
        self.socket.receive(PATIENCE, is_answer).is_ok()
    }
}

#[test]
fn fragments_arrive_in_any_order() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::start(cell);
        let client = Client::new(&scene);
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for (port, order) in (5000..).zip(orders) {
            let question = client.question(port, port.into());
            client.send(&question, &order);
            assert!(
                client.answered(port),
                "{cell}, {order:?}: {}",
                scene.status()["verdicts"]
            );
        }
        let held = scene.counted("fragment_held");
        // 1 + 2 + 1 + 2, unless a frame was overtaken on its way.
        assert!(held >= 6, "{cell}: {held} fragments waited");
    }
}

#[test]
fn fragments_wait_for_a_first_one_that_is_late() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::start(cell);
        let client = Client::new(&scene);
        let question = client.question(5000, 1);
        client.send(&question, &[2, 1]);
        until_true("fragments that wait", PATIENCE, || scene.counted("fragment_held") >= 2).expect("they wait");
        client.send(&question, &[0]);
        assert!(client.answered(5000), "{cell}: {}", scene.status()["verdicts"]);
    }
}

#[test]
fn fragments_without_a_first_one_become_the_kernels() {
    for cell in MATRIX_BOTH_FAMILIES {
        let scene = Scene::start(cell);
        let client = Client::new(&scene);
        client.send(&client.question(5000, 1), &[1, 2]);
        until_true("fragments that wait", PATIENCE, || scene.counted("fragment_held") == 2).expect("they wait");
        until_true("fragments left to the kernel", PATIENCE, || {
            scene.counted("fragment") >= 2
        })
        .unwrap_or_else(|error| panic!("{cell}: {error}\n{}", scene.gateway.log()));
    }
}
