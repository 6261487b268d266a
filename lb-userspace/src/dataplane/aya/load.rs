//! Loading the object, and adopting what is pinned after checking that it fits.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, MapInfo},
};
use aya_obj::{Object, generated::bpf_map_type};
use lb_common::{LAYOUT_VERSION, maps, settings::Settings};
use tracing::{info, warn};

use crate::dataplane::pins::{Pins, PinsError};

/// The compiled programs, embedded so that there is one file to ship.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xlb-ebpf"));

/// The tables whose size is configured, each for as many connections as that says.
const CONNECTION_TABLES: [&str; 2] = [maps::CONNECTIONS_V4, maps::CONNECTIONS_V6];

/// What the size of the maps depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Established connections that fit.
    pub max_connections: u32,
    /// Half-open connections that fit.
    pub max_half_open: u32,
}

impl Options {
    /// Entries of a connection table: two a connection.
    const fn connection_entries(self) -> u32 {
        (self.max_connections.saturating_add(self.max_half_open)).saturating_mul(2)
    }
}

/// Why the programs can't be loaded, or what is pinned can't be adopted.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// A pinned object is not what this version of xlb makes.
    #[error(
        "{path} does not fit this version of xlb: {reason}; remove the data plane (this ends its connections): xlb detach"
    )]
    Mismatch {
        /// The pin.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused.
    #[error("cannot load the data plane: {0}{hint}", hint = privilege_hint(.0))]
    Kernel(#[from] aya::EbpfError),
    /// A map operation failed.
    #[error("cannot read {name}: {source}")]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// The embedded object is broken: a build fault.
    #[error("the embedded program is broken: {0}")]
    Object(#[from] aya_obj::ParseError),
}

/// What to do when the kernel said no, as far as the error tells.
fn privilege_hint(error: &aya::EbpfError) -> &'static str {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return match error.raw_os_error() {
                Some(libc::EPERM) => "; run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
                Some(libc::ENOMEM) => "; lower connections.max, or give the service more memory",
                _ => "",
            };
        }
        source = error.source();
    }
    ""
}

/// A pinned map, as far as it must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Loads the maps, adopting those that are pinned. Returns whether they were.
///
/// Programs are loaded when an interface needs them.
pub(super) fn load(pins: &Pins, options: Options) -> Result<(Ebpf, bool), LoadError> {
    let adopted = check_pins(pins, options)?;
    let mut loader = EbpfLoader::new();
    for name in maps::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    if !adopted {
        for name in CONNECTION_TABLES {
            loader.map_max_entries(name, options.connection_entries());
        }
    }
    match loader.load(OBJECT) {
        Ok(ebpf) => Ok((ebpf, adopted)),
        Err(error) => {
            if !adopted {
                // Each map is pinned as it is made; those made before the one that failed are of no use.
                remove_maps(pins)?;
            }
            Err(error.into())
        }
    }
}

fn remove_maps(pins: &Pins) -> Result<(), PinsError> {
    pins.remove_slots()?;
    maps::ALL.iter().try_for_each(|name| pins.remove(&pins.map(name)))
}

/// Checks every pinned map. `true`: all are there and fit. `false`: nothing usable is there, and leftovers of a start that did not
/// finish are gone.
fn check_pins(pins: &Pins, options: Options) -> Result<bool, LoadError> {
    let mut present = BTreeMap::new();
    for name in maps::ALL {
        let path = pins.map(name);
        if path.exists() {
            let info = pinned_map(&path).ok_or_else(|| mismatch(pins, name, "it is not a map"))?;
            present.insert(name, info);
        }
    }
    if present.is_empty() {
        return Ok(false);
    }
    let expected = expected_shapes()?;
    // First of all: other settings say what the other differences come from.
    if let (Some(info), Some(expected)) = (present.get(maps::SETTINGS), expected.get(maps::SETTINGS))
        && info.value_size() != expected.value_size
    {
        let reason = format!("it is of another layout version, expected {LAYOUT_VERSION}");
        return Err(mismatch(pins, maps::SETTINGS, &reason));
    }
    for (name, info) in &present {
        check_shape(pins, name, info, expected.get(*name).copied(), options)?;
    }
    match layout(pins, present.contains_key(maps::SETTINGS))? {
        // The settings are written once every map is pinned: without them the start that made these pins did not finish, and
        // nothing is attached.
        0 => {
            info!(directory = %pins.directory().display(), "removing the pins of an unfinished start");
            remove_maps(pins)?;
            Ok(false)
        }
        LAYOUT_VERSION => match maps::ALL.iter().find(|name| !present.contains_key(*name)) {
            Some(missing) => Err(mismatch(pins, missing, "it is missing while the others are there")),
            None => Ok(true),
        },
        other => Err(mismatch(
            pins,
            maps::SETTINGS,
            &format!("layout version {other}, expected {LAYOUT_VERSION}"),
        )),
    }
}

/// What the kernel says of a pinned map; `None` if it is something else.
fn pinned_map(path: &Path) -> Option<MapInfo> {
    let map = MapData::from_pin(path).ok()?;
    // The kernel describes programs and links by the same call: what it returned may be no description of a map.
    let descriptor = format!("/proc/self/fd/{}", map.fd().as_fd().as_raw_fd());
    let kind = fs::read_link(descriptor).ok()?;
    (kind == Path::new("anon_inode:bpf-map")).then(|| map.info().ok())?
}

fn mismatch(pins: &Pins, name: &str, reason: &str) -> LoadError {
    LoadError::Mismatch {
        path: pins.map(name).display().to_string(),
        reason: reason.to_owned(),
    }
}

/// The shapes that the embedded object asks for.
fn expected_shapes() -> Result<BTreeMap<String, Shape>, LoadError> {
    let object = Object::parse(OBJECT)?;
    Ok(object
        .maps
        .iter()
        .map(|(name, map)| {
            let shape = Shape {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: map.max_entries(),
            };
            (name.clone(), shape)
        })
        .collect())
}

fn check_shape(
    pins: &Pins,
    name: &str,
    info: &MapInfo,
    expected: Option<Shape>,
    options: Options,
) -> Result<(), LoadError> {
    let Some(mut expected) = expected else {
        return Err(mismatch(pins, name, "this version has no such map"));
    };
    let actual = Shape {
        map_type: info
            .map_type()
            .map_or(bpf_map_type::BPF_MAP_TYPE_UNSPEC as u32, |kind| kind as u32),
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
    };
    if CONNECTION_TABLES.contains(&name) {
        // A table can't be resized while connections are in it: it keeps its size, loudly.
        let wanted = options.connection_entries();
        if actual.max_entries != wanted {
            warn!(
                table = name,
                capacity = actual.max_entries / 2,
                configured = wanted / 2,
                "the connection table keeps its size until `xlb detach`"
            );
        }
        expected.max_entries = actual.max_entries;
    }
    if actual == expected {
        return Ok(());
    }
    Err(mismatch(
        pins,
        name,
        &format!("found {actual:?}, expected {expected:?}"),
    ))
}

/// The layout version in the pinned settings; 0 when they were never written.
fn layout(pins: &Pins, present: bool) -> Result<u32, LoadError> {
    if !present {
        return Ok(0);
    }
    let error = |source| LoadError::Map {
        name: maps::SETTINGS,
        source,
    };
    let map = MapData::from_pin(pins.map(maps::SETTINGS)).map_err(error)?;
    let map: Array<_, Settings> = Array::try_from(aya::maps::Map::Array(map)).map_err(error)?;
    Ok(map.get(&0, 0).map_err(error)?.layout)
}
