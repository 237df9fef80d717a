//! `exo dump`: taps a port and writes down what passes.
//!
//! exo creates the two ports that a tapped port's sides mirror into, one thread and session each,
//! and then asks exod to tap. The sides join when they notice. Threads put packets together and
//! stamp them ([`side`]); this one writes them ([`sink`]). The channel between is bounded, so a
//! slow disk becomes drops at the sender, which are counted, and never a slow sender.

#![forbid(unsafe_code)]

mod part;
mod side;
mod sink;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use libexo::Client;
use libexo::abi::tap::{TAPPABLE_LEN, tap_name};
use libexo::abi::wire::{ErrorCode, PortName};
use serde_json::json;

use self::part::Captured;
use self::sink::Sink;
use crate::{Exod, explain};

/// Bursts between the threads that receive and the one that writes: some ten thousand packets.
const BURSTS_WAITING: usize = 64;

/// How often to look at the stop flag while nothing comes.
const TURN: Duration = Duration::from_millis(50);

/// How often to ask exod whether the port is still there.
const ALIVE: Duration = Duration::from_millis(500);

/// When to say that nobody mirrors.
const PATIENCE: Duration = Duration::from_secs(3);

/// Writes down the packets that pass a port
///
/// Both sides mirror what they send while exo listens. They do not wait for it: what it cannot take
/// in time is dropped from the capture, not from the port, and counted. Each tapped side pays for
/// its copy with one frame and one port of its quota.
#[derive(clap::Args)]
pub struct Args {
    /// The port's name
    port: String,

    /// Write pcapng to FILE (`-`: standard output) instead of a line per packet
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Stop after COUNT packets
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Keep at most BYTES of each packet
    #[arg(short, long, value_name = "BYTES", default_value_t = u32::MAX, hide_default_value = true,
        value_parser = clap::value_parser!(u32).range(1..))]
    snap: u32,

    /// The link type that packets are written as
    #[arg(long, value_enum, default_value = "ethernet")]
    link: sink::Link,

    /// JSON: a line per packet (without -w), and the counts at the end
    #[arg(long)]
    json: bool,
}

/// What one side's thread reports.
pub enum Event {
    /// Its tap port waits.
    Waits,
    /// The tapped side came.
    Joined(u8),
    /// Packets, and how many were dropped after the last of them, which is known at the end alone.
    Burst(u8, Vec<Captured>, u64),
    /// It is over.
    Over(u8, anyhow::Result<()>),
}

/// What was counted on one side.
#[derive(Clone, Copy, Default)]
struct Counts {
    packets: u64,
    bytes: u64,
    dropped: u64,
}

struct Dump {
    sink: Sink,
    /// Packets still wanted.
    left: u64,
    counts: [Counts; 2],
    joined: [bool; 2],
    running: u32,
    failed: Option<anyhow::Error>,
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<()> {
    let name = PortName::new(&args.port).filter(|name| tap_name(name, 0).is_some());
    let Some(name) = name else {
        bail!(
            "no port {:?} can be tapped: names have 1 to {TAPPABLE_LEN} letters, digits and -_.:/",
            args.port
        );
    };
    let stop = crate::stop_flag()?;
    // The tapped sides' memory may go at any moment.
    libexo::guard::install()?;
    let client = exod.connect()?;
    let sink = Sink::open(
        &name,
        args.write.as_deref(),
        args.link,
        args.snap,
        args.json,
    )?;
    let (report, events) = bounded(BURSTS_WAITING);
    let mut dump = Dump {
        sink,
        left: args.count.unwrap_or(u64::MAX),
        counts: [Counts::default(); 2],
        joined: [false; 2],
        running: 2,
        failed: None,
    };
    let closing = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for side in 0..2 {
            let (report, name, closing) = (report.clone(), &name, &closing);
            scope.spawn(move || {
                let outcome = side::run(exod, name, side, args.snap, closing, &report);
                // Received until all threads said so.
                let _ = report.send(Event::Over(side, outcome));
            });
        }
        let tapped = dump.tap(&client, &name, &events);
        if tapped.is_ok() {
            dump.listen(&client, &name, &events, &stop);
        }
        closing.store(true, Ordering::Release);
        // The port may be gone by now, and its tap with it.
        let _ = client.port_tap(&name, false);
        while dump.running > 0 {
            let Ok(event) = events.recv() else { break };
            dump.take(event);
        }
        dump.failed = dump.failed.take().or(tapped.err());
    });
    dump.finish(&name, args)
}

impl Dump {
    /// Waits for both threads' ports, then asks exod to tap.
    fn tap(
        &mut self,
        client: &Client,
        name: &PortName,
        events: &Receiver<Event>,
    ) -> anyhow::Result<()> {
        for _ in 0..2 {
            match events.recv() {
                Ok(Event::Waits) => {}
                Ok(other) => {
                    self.take(other);
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
        match client.port_tap(name, true) {
            Err(error) if error.code() == Some(ErrorCode::NotFound) => {
                bail!("there is no port {name}: its sides must be there first")
            }
            Err(error) if error.code() == Some(ErrorCode::Busy) => {
                bail!("somebody else dumps {name} already")
            }
            other => explain(other),
        }
    }

    /// Takes in what threads report until the end: a signal, the count, or the port's own.
    fn listen(
        &mut self,
        client: &Client,
        name: &PortName,
        events: &Receiver<Event>,
        stop: &AtomicBool,
    ) {
        let began = Instant::now();
        let mut alive_at = began + ALIVE;
        let mut patient = true;
        while self.running == 2
            && self.left > 0
            && self.failed.is_none()
            && !stop.load(Ordering::Acquire)
        {
            match events.recv_timeout(TURN) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if events.is_empty() {
                let flushed = self.sink.flush();
                self.note(flushed);
            }
            let now = Instant::now();
            if now >= alive_at {
                alive_at = now + ALIVE;
                // Refused once the first side has gone: nothing is sent any more.
                if client.port_tap(name, true).is_err() {
                    return;
                }
            }
            if patient && now - began > PATIENCE && self.joined == [false; 2] {
                patient = false;
                eprintln!(
                    "exo: no side of {name} mirrors yet: nothing is sent, or the sides lack quota (one frame and one port each)"
                );
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Waits => {}
            Event::Joined(side) => self.joined[usize::from(side)] = true,
            Event::Burst(side, packets, dropped_after) => {
                for packet in packets {
                    self.write(side, &packet);
                }
                if self.left > 0 {
                    self.counts[usize::from(side)].dropped += dropped_after;
                }
            }
            Event::Over(side, outcome) => {
                self.running -= 1;
                self.note(outcome.with_context(|| format!("the tap of side {side} failed")));
            }
        }
    }

    fn write(&mut self, side: u8, packet: &Captured) {
        if self.left == 0 || self.failed.is_some() {
            return;
        }
        self.left -= 1;
        let counts = &mut self.counts[usize::from(side)];
        counts.packets += 1;
        counts.bytes += u64::from(packet.len);
        counts.dropped += packet.dropped;
        let written = self.sink.write(side, packet);
        self.note(written);
    }

    /// Keeps the first failure.
    fn note(&mut self, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.failed.get_or_insert(error);
        }
    }

    fn finish(mut self, name: &PortName, args: &Args) -> anyhow::Result<()> {
        let counts = self.counts.map(|c| (c.packets, c.dropped));
        let closed = self.sink.close(counts);
        self.note(closed);
        let mut all = Counts::default();
        for side in self.counts {
            all.packets += side.packets;
            all.bytes += side.bytes;
            all.dropped += side.dropped;
        }
        if args.json {
            let one =
                |c: Counts| json!({"packets": c.packets, "bytes": c.bytes, "dropped": c.dropped});
            let sides = self.counts.map(one);
            let total = one(all);
            self.sink
                .summary(&json!({"port": name.as_str(), "total": total, "sides": sides}));
        } else {
            let [a, b] = self.counts.map(|c| c.packets);
            eprintln!(
                "{} packets ({a} from side 0, {b} from side 1), {} bytes, {} dropped",
                all.packets, all.bytes, all.dropped
            );
        }
        match self.failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
