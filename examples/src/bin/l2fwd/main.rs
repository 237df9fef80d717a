//! Three processes that do not trust each other: a source, a forwarder, a sink.
//!
//! ```text
//!   source --- port "l2fwd-in" ---> forwarder --- port "l2fwd-out" ---> sink
//!   writes frames                   new header + the source's payload    checks every byte
//! ```
//!
//! The forwarder reads 14 bytes of each frame, writes 14 of its own, and sends them as a chain: own
//! header, then the source's payload where it lies. The source allowed that (`share`), the sink
//! reads it from the source's memory, and no process can write what another one owns. Run it:
//!
//!     cargo run --release --bin l2fwd

#![forbid(unsafe_code)]

mod forwarder;
mod frame;
mod sink;
mod source;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use examples::family::{Family, Stop};
use libexo::port::PortConfig;

const IN: &str = "l2fwd-in";
const OUT: &str = "l2fwd-out";

/// How long a role waits for another to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Frames handed over at once.
const BURST: usize = 32;

/// Rings shorter than the default: what is on its way stays in cache.
const CONFIG: PortConfig = PortConfig {
    ring_log2: 10,
    frames: 1,
    buffer_len: 2048,
    buffers_max: 1024,
    share: false,
    trusted: false,
};

/// Forwards Ethernet frames between processes that do not trust each other, without copying them
#[derive(Clone, Parser)]
struct Options {
    /// Frames to send [default: as many as fit the time]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// Bytes in each, header included
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=9000))]
    size: u16,
    /// Seconds to send for [default: 5, or until all packets are sent]
    #[arg(long)]
    seconds: Option<u64>,
    /// Which process this is; the first one says so to those that it starts
    #[arg(long, hide = true)]
    role: Option<Role>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Source,
    Forwarder,
    Sink,
}

fn main() -> Result<()> {
    /// What runs when nothing is said.
    const SECONDS: u64 = 5;
    let mut options = Options::parse();
    if options.packets.is_none() {
        options.seconds.get_or_insert(SECONDS);
    }
    // Ctrl-C reaches all: the source stops, and the others when everything has arrived.
    let stop = Stop::install()?;
    // A peer that dies takes its memory along.
    libexo::guard::install()?;
    match options.role {
        Some(Role::Source) => source::run(&options, &stop),
        Some(Role::Forwarder) => forwarder::run(),
        Some(Role::Sink) => sink::run(&options),
        None => all(&options),
    }
}

fn all(options: &Options) -> Result<()> {
    let mut family = Family::new()?;
    for role in ["sink", "forwarder", "source"] {
        let mut args = vec!["--role".to_owned(), role.to_owned()];
        args.extend(["--size".to_owned(), options.size.to_string()]);
        if let Some(packets) = options.packets {
            args.extend(["--packets".to_owned(), packets.to_string()]);
        }
        if let Some(seconds) = options.seconds {
            args.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        family.start(role, &args)?;
    }
    family.wait()
}
