//! `xlb demo`: the product in a laboratory of network namespaces, with real traffic and a backend that dies.
//!
//! `stage` builds what is needed, `acts` plays on it, `screen` tells a person what happens, `summary` a script.

#![forbid(unsafe_code)]

mod acts;
mod interrupt;
mod screen;
mod stage;
mod summary;

use std::{fmt, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::{Args, ValueEnum};

pub(crate) use self::stage::BACKEND_COMMAND;
use self::{acts::Play, interrupt::Interrupt, screen::Screen, summary::Summary};

/// What to show, and how.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// How packets are forwarded.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Forwarding::Nat)]
    forwarding: Forwarding,
    /// How XDP is attached.
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Native)]
    mode: Mode,
    /// Print a summary as JSON, and nothing else.
    #[arg(long)]
    json: bool,
}

/// The forwarding modes that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Forwarding {
    /// Backends see the clients' addresses.
    Nat,
    /// Backends see an address of the gateway.
    #[value(name = "full_nat")]
    FullNat,
}

/// The attach modes that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, for drivers without XDP.
    Generic,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Plays the demo and removes all that it made. Succeeds when everything was as it must be.
///
/// # Errors
///
/// When the demo could not go on, or was interrupted; what it made is removed nevertheless.
pub fn run(options: Options) -> Result<ExitCode> {
    let started = Instant::now();
    let mut summary = Summary::new(options);
    let mut screen = Screen::new(!options.json);
    let mut play = Play {
        options,
        interrupt: Interrupt::watch()?,
        screen: &mut screen,
        summary: &mut summary,
    };
    // Interrupted processes fail in ways that say nothing about the product.
    let interrupt = play.interrupt.clone();
    let played = play.play().map_err(|error| interrupt.check().err().unwrap_or(error));
    let cleaned = play.look_for_traces();

    if let Err(error) = &played {
        summary.failures.push(format!("{error:#}"));
    }
    summary.seconds = started.elapsed().as_secs_f64();
    summary.success = summary.failures.is_empty();
    if options.json {
        screen::json(&summary)?;
    }
    played.and(cleaned)?;
    screen.end(&summary)?;
    Ok(if summary.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
