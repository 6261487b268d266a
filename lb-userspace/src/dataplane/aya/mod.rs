//! The real data plane: maps and programs in the kernel, through aya.

mod attach;
mod dataplane;
mod family;
mod fragments;
mod load;
mod maps;
mod reinject;
mod tc;

pub use attach::{AttachError, Attached, Device};
pub use dataplane::{AyaDataplane, remove_all};
pub use fragments::{FragmentNotes, HeldFragments, HeldStream, PacketId};
pub use load::{LoadError, OBJECT, Options};
pub use reinject::Reinjection;
