//! The real program on single frames, through `BPF_PROG_TEST_RUN`: exact bytes out, every counter accounted for.
//!
//! Expected frames come from the laboratory's packet builder or are written out; nothing of the product computes them. The tests in
//! `model` alone ask its parser and its pure functions, which have tests of their own.

mod admission;
mod checksums;
mod dsr;
mod echo;
mod exchange;
mod extensions;
mod fixture;
mod flow;
mod fragments;
mod icmp;
mod jumbo;
mod life;
mod malformed;
mod model;
mod race;
mod ranges;
mod refusal;
mod scheduling;
mod source_translation;
mod tags;
mod translation;
mod transparency;
