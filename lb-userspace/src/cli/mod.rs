//! The commands of `xlb`.

pub mod check;
