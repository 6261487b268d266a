//! The program against a model of it, over random traffic: same action, same bytes, same counters, same tables.
//!
//! The traffic comes in chapters of [`CHAPTER`] packets, each from tables that are empty and from a seed of its own. A chapter is short enough for
//! nothing to get old in it; one during which the machine stood still is played again. With `cargo xtask test packet --long` a million packets
//! go through each program; with `XLB_SEED=n` in the environment chapter `n` comes first.

mod mutation;
mod traffic;
mod world;

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf},
    util::nr_cpus,
};
use lb_common::{
    counters::Traffic as Counters,
    flow::protocol,
    maps::{self, programs},
    verdict::outcomes,
};
use lb_tests::{
    diff::difference,
    model::{Action, Answer, Choices, Flow, Kind, Model},
    program::{self, Outcome},
};
use xlb::dataplane::{ConnectionEntry, Dataplane as _, ServiceId, Tuple, aya::AyaDataplane};

use self::traffic::{Step, Traffic};
use crate::fixture::{Fixture, IFINDEX};

/// Packets of a chapter: not more than a CPU may send ICMP errors in a second.
const CHAPTER: u32 = 1000;
/// Chapters of a short and a long run.
const SHORT: u64 = 17;
const LONG: u64 = 1000;
/// Before it nothing in the program gets old: time stamps of connections are renewed after a second.
const FRESH: Duration = Duration::from_millis(900);
/// How often a chapter is played when the machine stands still.
const ATTEMPTS: u32 = 20;

/// Outcomes that a short run may lack: they take a kernel's routing table, a full table, two CPUs, one of the programs, or luck.
const RARE: [&str; 9] = [
    "left_to_tc",
    "table_full",
    "tuple_taken",
    "ports_exhausted",
    "no_neighbor",
    "no_route",
    "vanished",
    "no_headroom",
    "fragment_conflict",
];

#[test]
fn native_program_agrees_with_the_model() {
    agree(programs::NATIVE, Kind::Native);
}

#[test]
fn native_program_for_virtual_interfaces_agrees_with_the_model() {
    agree(programs::NATIVE_VIRTUAL, Kind::NativeVirtual);
}

#[test]
fn generic_program_agrees_with_the_model() {
    agree(programs::GENERIC, Kind::Generic);
}

fn agree(program: &'static str, kind: Kind) {
    let chapters = if env::var_os("XLB_LONG").is_some() { LONG } else { SHORT };
    let first = env::var("XLB_SEED").map_or(0, |seed| seed.parse().expect("XLB_SEED is a number"));
    let mut stage = Stage::new(program, kind);
    for seed in first..first + chapters {
        let difference = stage.difference(seed);
        assert!(
            difference.is_none(),
            "{program} and the model differ; XLB_SEED={seed} begins there\n{}",
            difference.unwrap_or_default()
        );
    }
    println!("{program}, {chapters} chapters: {:?}", stage.total);
    let reasons = outcomes().map(|outcome| outcome.reason);
    let unseen: Vec<&str> = reasons
        .filter(|reason| !stage.total.contains_key(reason) && !RARE.contains(reason))
        .collect();
    assert!(unseen.is_empty(), "no packet met {unseen:?}");
}

/// How often the counters are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    Chapter,
    Packet,
}

/// Why a chapter was not played to its end.
enum Stop {
    /// It took so long that time has an effect.
    TooSlow,
    Difference(String),
}

/// The program, and the model beside it.
struct Stage {
    fixture: Fixture,
    held: RingBuf<MapData>,
    model: Model,
    /// What was counted for each service before this chapter.
    traffic: BTreeMap<u32, Counters>,
    expected: BTreeMap<&'static str, u64>,
    /// All that was counted.
    total: BTreeMap<&'static str, u64>,
}

impl Stage {
    fn new(program: &'static str, kind: Kind) -> Self {
        let mut fixture = Fixture::with_capacity(2 * CHAPTER);
        fixture.use_program(program);
        let config = world::config(0);
        world::write_services(&config, &mut fixture);
        let held = fixture.dataplane.ebpf_mut().take_map(maps::HELD).expect("the map");
        Self {
            fixture,
            held: RingBuf::try_from(held).expect("a ring buffer"),
            model: Model::new(kind, config),
            traffic: BTreeMap::new(),
            expected: BTreeMap::new(),
            total: BTreeMap::new(),
        }
    }

    /// In what program and model differ in a chapter.
    fn difference(&mut self, seed: u64) -> Option<String> {
        let first = self.play_in_time(seed, Care::Chapter).err()?;
        // Once more, to find the packet.
        let again = self.play_in_time(seed, Care::Packet).err();
        Some(format!("{first}\nand again: {}", again.unwrap_or_default()))
    }

    /// Plays a chapter, again if the machine stood still meanwhile.
    fn play_in_time(&mut self, seed: u64, care: Care) -> Result<(), String> {
        for _ in 0..ATTEMPTS {
            match self.play(seed, care) {
                Err(Stop::TooSlow) => {}
                Err(Stop::Difference(difference)) => return Err(difference),
                Ok(()) => return Ok(()),
            }
        }
        Err(format!("{CHAPTER} packets take longer than {FRESH:?} on this machine"))
    }

    fn play(&mut self, seed: u64, care: Care) -> Result<(), Stop> {
        self.begin(seed);
        let begin = Instant::now();
        let mut traffic = Traffic::new(seed);
        let mut number = 0;
        while number < CHAPTER {
            let step = traffic.next(&self.model);
            number += u32::from(matches!(step, Step::Frame(_)));
            let result = self.step(step);
            if begin.elapsed() > FRESH {
                return Err(Stop::TooSlow);
            }
            let result = result.and_then(|step| match care {
                Care::Packet => self.compare_counters().map_err(|text| text + &step),
                Care::Chapter => Ok(()),
            });
            result.map_err(|text| Stop::Difference(format!("packet {number}: {text}")))?;
        }
        self.compare_counters().map_err(Stop::Difference)?;
        self.compare_tables().map_err(Stop::Difference)
    }

    /// One step of program and model. Returns in words what happened.
    fn step(&mut self, step: Step) -> Result<String, String> {
        let frame = match step {
            Step::Frame(frame) => frame,
            Step::Health(id, alive) => {
                let backend = self.model.config.backends.get_mut(&id).expect("a backend");
                backend.alive = alive;
                world::write_backend(id, backend, &mut self.fixture);
                return Ok(format!("\nbackend {id} alive: {alive}"));
            }
        };
        let outcome = self.fixture.run(&frame);
        let chosen = Chosen {
            dataplane: &self.fixture.dataplane,
            outcome: &outcome,
        };
        let answer = self.model.process(&frame, IFINDEX, &chosen);
        for label in &answer.counted {
            *self.expected.entry(label).or_default() += 1;
        }
        let text = format!("\nframe {}\nthe model counts {:?}", hex(&frame), answer.counted);
        compare(&outcome, &answer).map_err(|difference| difference + &text)?;
        self.compare_held(&answer).map_err(|difference| difference + &text)?;
        Ok(text)
    }

    /// Compares what the agent is given to keep.
    fn compare_held(&mut self, answer: &Answer) -> Result<(), String> {
        let record = self.held.next();
        // Interface and length stand before the frame.
        let held = record.as_ref().map(|record| {
            let length = u32::from_ne_bytes([record[4], record[5], record[6], record[7]]);
            &record[8..8 + usize::try_from(length).expect("a length")]
        });
        if held == answer.held.as_deref() {
            Ok(())
        } else {
            let expected = answer.held.as_deref().map(hex);
            Err(format!("the program holds {:?}, the model {expected:?}", held.map(hex)))
        }
    }

    /// Empties all tables, and writes the configuration of a chapter.
    fn begin(&mut self, seed: u64) {
        for entry in self.fixture.connections() {
            self.fixture.remove(&entry.key);
        }
        let config = world::config(seed);
        world::write_conditions(&config, &mut self.fixture);
        self.fixture.dataplane.set_half_open(0).expect("the counter");
        self.clear_fragments::<16, 32>(maps::FRAGMENTS_V4);
        self.clear_fragments::<40, 56>(maps::FRAGMENTS_V6);
        let mut cursors: Array<_, u64> = map(&mut self.fixture, maps::CURSORS);
        for id in config.services.keys() {
            cursors.set(*id, 0, 0).expect("a cursor");
        }
        for id in config.services.keys() {
            let counted = self
                .fixture
                .dataplane
                .service_traffic(ServiceId(*id))
                .expect("counters");
            self.traffic.insert(*id, counted);
        }
        let mut budget: PerCpuArray<_, [u64; 2]> = map(&mut self.fixture, maps::ICMP_BUDGET);
        let unspent = vec![[0; 2]; nr_cpus().expect("the CPUs")];
        let unspent = PerCpuValues::try_from(unspent).expect("a value for each CPU");
        budget.set(0, unspent, 0).expect("the budget");
        self.fixture.counts();
        self.expected.clear();
        self.model.restart(config);
    }

    fn clear_fragments<const KEY: usize, const NOTE: usize>(&mut self, name: &str)
    where
        [u8; KEY]: Pod,
        [u8; NOTE]: Pod,
    {
        let mut notes: HashMap<_, [u8; KEY], [u8; NOTE]> = map(&mut self.fixture, name);
        let keys: Vec<[u8; KEY]> = notes.keys().map(|key| key.expect("a key")).collect();
        for key in keys {
            notes.remove(&key).expect("the note is there");
        }
    }

    /// Compares what was counted since this was last done.
    fn compare_counters(&mut self) -> Result<(), String> {
        let counted = self.fixture.counts();
        for (label, count) in &counted {
            *self.total.entry(label).or_default() += count;
        }
        let expected = std::mem::take(&mut self.expected);
        if counted == expected {
            Ok(())
        } else {
            Err(format!("the program counted {counted:?},\nthe model {expected:?}"))
        }
    }

    /// Compares connections, half-open connections, and the traffic of each service.
    fn compare_tables(&self) -> Result<(), String> {
        let expected: Vec<String> = self
            .model
            .connections()
            .iter()
            .map(|(flow, entry)| {
                let direction = entry.direction;
                format!(
                    "{flow:?} {:?} {direction:?} {:?} {} {}",
                    entry.twin, entry.seen, entry.service, entry.backend
                )
            })
            .collect();
        let actual: BTreeMap<Flow, ConnectionEntry> = self
            .fixture
            .connections()
            .into_iter()
            .map(|entry| (flow(&entry.key), entry))
            .collect();
        let actual: Vec<String> = actual
            .iter()
            .map(|(key, entry)| {
                let (twin, direction) = (flow(&entry.twin), entry.direction);
                format!(
                    "{key:?} {twin:?} {direction:?} {:?} {} {}",
                    entry.seen, entry.service.0, entry.backend.0
                )
            })
            .collect();
        for (actual, expected) in actual.iter().zip(&expected) {
            if actual != expected {
                return Err(format!("connection {actual},\nin the model {expected}"));
            }
        }
        if actual.len() != expected.len() {
            let (actual, expected) = (actual.len(), expected.len());
            return Err(format!("{actual} connection entries, {expected} in the model"));
        }
        let half_open = self.fixture.half_open();
        if half_open != self.model.half_open() {
            let expected = self.model.half_open();
            return Err(format!("{half_open} half-open connections, {expected} in the model"));
        }
        self.compare_traffic()
    }

    fn compare_traffic(&self) -> Result<(), String> {
        for (id, before) in &self.traffic {
            let counted = self
                .fixture
                .dataplane
                .service_traffic(ServiceId(*id))
                .expect("counters");
            let mut expected = *before;
            expected += self.model.service_traffic(*id);
            if counted != expected {
                return Err(format!("service {id}: {counted:?},\nin the model {expected:?}"));
            }
        }
        Ok(())
    }
}

/// A map that the agent has no business with.
fn map<'a, T>(fixture: &'a mut Fixture, name: &str) -> T
where
    T: TryFrom<&'a mut aya::maps::Map, Error: std::fmt::Debug>,
{
    let map = fixture.dataplane.ebpf_mut().map_mut(name).expect("the map");
    T::try_from(map).expect("a map of this kind")
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares action and bytes.
fn compare(outcome: &Outcome, answer: &Answer) -> Result<(), String> {
    let action = match outcome.action {
        program::Action::Pass => Action::Pass,
        program::Action::Drop => Action::Drop,
        program::Action::Redirect => Action::Send,
        other => return Err(format!("the program returned {other:?}")),
    };
    if action != answer.action {
        return Err(format!(
            "the program's action is {action:?}, the model's {:?}",
            answer.action
        ));
    }
    match difference(&outcome.frame, &answer.frame) {
        None if outcome.frame == answer.frame => Ok(()),
        None => Err(format!(
            "the program made {}, the model {}",
            hex(&outcome.frame),
            hex(&answer.frame)
        )),
        Some(fields) => Err(format!("bytes differ (program, model):\n{fields}")),
    }
}

/// What the program chose.
struct Chosen<'a> {
    dataplane: &'a AyaDataplane,
    outcome: &'a Outcome,
}

impl Choices for Chosen<'_> {
    fn source_port(&self, client: &Flow) -> Option<u16> {
        let entry = self.dataplane.connection(&tuple(client)).expect("the table")?;
        Some(entry.twin.destination.port())
    }

    fn frame(&self) -> &[u8] {
        &self.outcome.frame
    }
}

const fn tuple(flow: &Flow) -> Tuple {
    Tuple {
        protocol: world::protocol_of(flow.protocol),
        source: flow.source,
        destination: flow.destination,
    }
}

fn flow(tuple: &Tuple) -> Flow {
    let end = |end: SocketAddr| SocketAddr::from((end.ip(), end.port()));
    Flow {
        source: end(tuple.source),
        destination: end(tuple.destination),
        protocol: match tuple.protocol {
            xlb::model::Protocol::Tcp => protocol::TCP,
            xlb::model::Protocol::Udp => protocol::UDP,
        },
    }
}
