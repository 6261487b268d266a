//! The real data plane: maps and programs in the kernel, through aya.

mod attach;
mod load;
mod maps;
mod tc;

pub use attach::{AttachError, Attached, Device};
pub use load::{LoadError, OBJECT, Options};
pub use maps::{AyaDataplane, remove_all};
