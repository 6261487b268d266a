//! The real data plane: maps and programs in the kernel, through aya.

mod attach;
mod dataplane;
mod family;
mod load;
mod maps;
mod tc;

pub use attach::{AttachError, Attached, Device};
pub use dataplane::{AyaDataplane, remove_all};
pub use load::{LoadError, OBJECT, Options};
