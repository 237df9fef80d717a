//! Our own program on libdpdk over memif: every byte written, every byte read and checked.
//!
//! `memif-read-*` are what a port is held against; `memif-peer-*` are the same program with a
//! receiver that looks at descriptors only, beside testpmd's rows, so that a reader sees that ours
//! is no slower. `memif` and `memif-copy` are round trips.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::compile::{library, program};
use super::eal::{self, Memif, Memory, Room};
use super::process::Process;
use super::{BURST_MAX, Sends, fits};
use crate::clock;
use crate::interrupt;
use crate::row::{Kind, Plan, Row, Throughput};
use crate::worker::new_histogram;

/// Holds the pool below with packets of the largest size.
pub(super) const MEMORY: Memory = Memory { mib: 128 };
/// Packets in a pool: a full ring, full caches, and bursts in the making on both sides.
const MBUFS: u32 = 4096;
/// Slots of a memif ring, as log2.
const RING_LOG2: u32 = 10;
/// Longest time that packets under way may take to arrive after the sender stopped.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// The option of a process that shares its core.
pub(super) const YIELD: &str = "yield=1";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The receiver reads every byte.
    Read,
    /// The receiver looks at descriptors only.
    Descriptors,
    /// There and back.
    RoundTrip,
}

struct PeerRow {
    name: &'static str,
    about: &'static str,
    way: Way,
    zero_copy: bool,
    sends: Sends,
}

const ROWS: [PeerRow; 8] = [
    row(
        "memif-read-zc-client-tx",
        "DPDK memif zero-copy, client sends, every byte read",
        Way::Read,
        true,
        Sends::Client,
    ),
    row(
        "memif-read-zc-server-tx",
        "DPDK memif zero-copy, server sends, every byte read",
        Way::Read,
        true,
        Sends::Server,
    ),
    row(
        "memif-read-copy-client-tx",
        "DPDK memif with two copies, client sends, every byte read",
        Way::Read,
        false,
        Sends::Client,
    ),
    row(
        "memif-read-copy-server-tx",
        "DPDK memif with two copies, server sends, every byte read",
        Way::Read,
        false,
        Sends::Server,
    ),
    row(
        "memif-peer-zc-client-tx",
        "as memif-read-zc-client-tx, but the receiver looks at descriptors only",
        Way::Descriptors,
        true,
        Sends::Client,
    ),
    row(
        "memif-peer-zc-server-tx",
        "as memif-read-zc-server-tx, but the receiver looks at descriptors only",
        Way::Descriptors,
        true,
        Sends::Server,
    ),
    row(
        "memif",
        "DPDK memif zero-copy, one packet there and back, every byte read on both sides",
        Way::RoundTrip,
        true,
        Sends::Server,
    ),
    row(
        "memif-copy",
        "DPDK memif with copies, one packet there and back, every byte read on both sides",
        Way::RoundTrip,
        false,
        Sends::Server,
    ),
];

const fn row(
    name: &'static str,
    about: &'static str,
    way: Way,
    zero_copy: bool,
    sends: Sends,
) -> PeerRow {
    PeerRow {
        name,
        about,
        way,
        zero_copy,
        sends,
    }
}

/// The rows of this module.
pub(super) fn rows() -> Vec<Box<dyn Row>> {
    ROWS.into_iter()
        .map(|row| Box::new(row) as Box<dyn Row>)
        .collect()
}

impl PeerRow {
    /// Starts both processes; returns the one that sends and the one that receives, both connected.
    fn start(&self, plan: &Plan, room: &Room, roles: [&str; 2]) -> Result<(Peer, Peer)> {
        let binary = program()?;
        let start = |client: bool| {
            let second = usize::from(client != (self.sends == Sends::Client));
            let mut command = Command::new(&binary);
            room.furnish(&mut command, MEMORY, &[plan.cores[second]]);
            let memif = Memif {
                port: 0,
                link: "memif",
                client,
                zero_copy: self.zero_copy,
                size: plan.size,
                ring_log2: RING_LOG2,
            };
            room.add_memif(&mut command, &memif);
            let touch = match self.way {
                Way::Descriptors => "touch=0",
                Way::Read | Way::RoundTrip => "touch=1",
            };
            Peer::start(command, roles[second], plan, &[touch])
        };
        let server = start(false)?;
        let client = start(true)?;
        let (mut sender, mut receiver) = match self.sends {
            Sends::Client => (client, server),
            Sends::Server => (server, client),
        };
        sender.await_link()?;
        receiver.await_link()?;
        Ok((sender, receiver))
    }
}

impl Row for PeerRow {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        unavailable(2)
    }

    fn supports(&self, size: usize) -> bool {
        fits(size)
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn has_throughput(&self) -> bool {
        self.way != Way::RoundTrip
    }

    fn has_round_trip(&self) -> bool {
        self.way == Way::RoundTrip
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let room = Room::new(MEMORY, 2)?;
        let (mut sender, mut receiver) = self.start(plan, &room, ["send", "receive"])?;
        let mut run = window(&mut sender, &mut receiver, plan)?;
        run.details = details(&room, "net_memif");
        run.details.insert("ring".into(), json!(1 << RING_LOG2));
        run.details
            .insert("zero-copy".into(), json!(self.zero_copy));
        if self.way == Way::Descriptors {
            run.details.insert("mode".into(), json!("descriptors"));
        }
        sender.process.end()?;
        receiver.process.end()?;
        Ok(run)
    }

    fn round_trip(&self, plan: &Plan) -> Result<Option<Histogram<u64>>> {
        if self.way != Way::RoundTrip {
            return Ok(None);
        }
        let room = Room::new(MEMORY, 2)?;
        let (mut sender, receiver) = self.start(plan, &room, ["ping", "echo"])?;
        let histogram = round_trips(&mut sender, plan)?;
        let count = sender.stats()?;
        if count.corrupt + count.lost > 0 {
            bail!(
                "{} packets came back damaged, {} not at all",
                count.corrupt,
                count.lost
            );
        }
        sender.process.end()?;
        receiver.process.end()?;
        Ok(Some(histogram))
    }
}

/// Why `processes` of this program cannot run.
pub(super) fn unavailable(processes: u64) -> Option<String> {
    library()
        .err()
        .or_else(|| eal::unavailable(MEMORY, processes))
}

/// Warm-up and window, then the balance: what the sender sent must arrive.
pub(super) fn window(sender: &mut Peer, receiver: &mut Peer, plan: &Plan) -> Result<Throughput> {
    interrupt::sleep(plan.warm_up)?;
    let sent = sender.stats()?.packets;
    let before = receiver.stats()?;
    interrupt::sleep(plan.duration)?;
    let after = receiver.stats()?;
    let sent = sender.stats()?.packets - sent;
    let all = sender.halt()?;
    let mut run = between(&before, &after);
    run.sent = sent;
    let end = Instant::now() + DRAIN_LIMIT;
    let mut last = receiver.stats()?;
    while last.packets < all.packets && Instant::now() < end {
        interrupt::check()?;
        last = receiver.stats()?;
    }
    run.lost = last.lost.max(all.packets.saturating_sub(last.packets));
    run.corrupt = last.corrupt;
    Ok(run)
}

/// What came between two readings.
pub(super) fn between(before: &Stats, after: &Stats) -> Throughput {
    let cycles = after.cycles - before.cycles;
    Throughput {
        packets: after.packets - before.packets,
        bytes: after.bytes - before.bytes,
        elapsed: Duration::from_nanos((cycles as f64 * clock::ns_per_cycle()) as u64),
        cycles,
        ..Throughput::default()
    }
}

/// The round trips of one window, in nanoseconds.
pub(super) fn round_trips(peer: &mut Peer, plan: &Plan) -> Result<Histogram<u64>> {
    interrupt::sleep(plan.warm_up)?;
    peer.ask("clear", "clear")?;
    interrupt::sleep(plan.duration)?;
    let line = peer.ask("histogram", "histogram")?;
    let mut histogram = new_histogram();
    for pair in line.split_whitespace() {
        let (cycles, times) = pair
            .split_once(':')
            .context("half a pair of the histogram")?;
        let ns = cycles.parse::<u64>()? as f64 * clock::ns_per_cycle();
        histogram.record_n(ns.round() as u64, times.parse()?)?;
    }
    if histogram.is_empty() {
        bail!("no round trip ended inside the window: run longer (--seconds)");
    }
    Ok(histogram)
}

/// What every row of this program says about itself.
pub(super) fn details(room: &Room, driver: &str) -> Map<String, Value> {
    let build = library().map(|found| {
        format!(
            "DPDK {}, drivers built with -march={}; ours with -march=native",
            found.version, found.machine
        )
    });
    let details = json!({
        "device": driver.trim_start_matches("net_").trim_start_matches("rte_"),
        "driver": driver,
        "mode": "every byte written and read",
        "program": "bench/dpdk",
        "build": build.unwrap_or_default(),
        "page": room.pages(),
        "mbufs": MBUFS,
    });
    match details {
        Value::Object(details) => details,
        _ => Map::new(),
    }
}

/// A running peer.
pub(super) struct Peer {
    pub(super) process: Process,
}

/// The answer to `stats`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stats {
    pub(super) cycles: u64,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) corrupt: u64,
    pub(super) lost: u64,
}

impl Peer {
    /// Starts it in a role, with more options, until its ports are up: a server listens then.
    pub(super) fn start(
        mut command: Command,
        role: &str,
        plan: &Plan,
        more: &[&str],
    ) -> Result<Self> {
        command.arg("--").args([
            format!("role={role}"),
            format!("size={}", plan.size),
            format!("burst={}", plan.burst),
            format!("mbufs={MBUFS}"),
        ]);
        command.args(more);
        let name = format!("the DPDK peer ({role})");
        let sharing = more.contains(&YIELD);
        let mut process = if sharing {
            Process::start_sharing(&name, command)?
        } else {
            Process::start(&name, command)?
        };
        process.hear(|line| (line == "started").then_some(()))?;
        Ok(Self { process })
    }

    /// Waits until its link is up and its workers run.
    pub(super) fn await_link(&mut self) -> Result<()> {
        self.process
            .hear(|line| line.starts_with("ready ").then_some(()))
    }

    /// Says something; returns what follows `key` in the answer.
    fn ask(&mut self, question: &str, key: &str) -> Result<String> {
        self.process.say(question)?;
        self.process
            .hear(|line| line.strip_prefix(key).map(str::to_owned))
    }

    /// The counters.
    pub(super) fn stats(&mut self) -> Result<Stats> {
        parse(&self.ask("stats", "stats ")?)
    }

    /// Ends sending, not the process; returns the counters of all that was sent.
    pub(super) fn halt(&mut self) -> Result<Stats> {
        parse(&self.ask("halt", "stats ")?)
    }
}

fn parse(line: &str) -> Result<Stats> {
    let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[cycles, packets, bytes, corrupt, lost]) => Ok(Stats {
            cycles,
            packets,
            bytes,
            corrupt,
            lost,
        }),
        _ => bail!("the DPDK peer answered `{line}`"),
    }
}
