//! testpmd over memif: `txonly` in one process, `rxonly` in the other.
//!
//! The receiver never looks at a packet's bytes, so these rows compare with `port-descriptors`
//! alone. The rate is testpmd's own, of the window between two `show port stats`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::eal::{self, Memif, Memory, Room, buffer};
use super::process::{ANSWER_LIMIT, Process};
use super::{BURST_MAX, Sends, fits};
use crate::clock;
use crate::interrupt;
use crate::row::{Kind, Plan, Row, Throughput};

/// What testpmd is given, as in DPDK's own examples.
pub(super) const MEMORY: Memory = Memory { mib: 256 };
/// Its packets; twice the hugepages would be needed for its own choice.
const MBUFS: usize = 16384;
/// Slots of a ring, as log2.
const RING_LOG2: u32 = 10;
/// How often a first packet is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Time for packets under way to arrive after the sender stopped.
const DRAIN: Duration = Duration::from_millis(50);

/// One testpmd that is installed.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) path: PathBuf,
    /// Added to the names of rows that run it; empty for the first.
    pub(super) suffix: &'static str,
}

impl Build {
    /// The program itself. It writes through stdio, which would keep its answers until it ends.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(&self.path);
        command
    }
}

/// What to do when there is none.
pub(super) const MISSING: &str = "dpdk-testpmd is not installed: apt-get install dpdk dpdk-dev, or set NETBENCH_TESTPMD to its path";

/// Every testpmd here: the one on PATH, then the one that NETBENCH_TESTPMD names.
pub(super) fn builds() -> &'static [Build] {
    static FOUND: OnceLock<Vec<Build>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let dirs = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&dirs)
            .map(|dir| dir.join("dpdk-testpmd"))
            .find(|path| path.is_file());
        let named = std::env::var_os("NETBENCH_TESTPMD")
            .map(PathBuf::from)
            .filter(|path| path.is_file() && Some(path) != on_path.as_ref());
        let paths = [on_path, named].into_iter().flatten();
        let suffixes = ["", "-native"];
        paths
            .zip(suffixes)
            .map(|(path, suffix)| Build { path, suffix })
            .collect()
    })
}

struct TestpmdRow {
    name: String,
    zero_copy: bool,
    sends: Sends,
    build: Option<Build>,
}

/// The rows of this module, once for each build.
pub(super) fn rows() -> Vec<Box<dyn Row>> {
    let ways = [
        ("memif-copy-client-tx", false, Sends::Client),
        ("memif-copy-server-tx", false, Sends::Server),
        ("memif-zc-client-tx", true, Sends::Client),
        ("memif-zc-server-tx", true, Sends::Server),
    ];
    let builds = each_build();
    let rows = builds.iter().flat_map(|build| {
        ways.map(|(name, zero_copy, sends)| TestpmdRow {
            name: format!("{name}{}", build.as_ref().map_or("", |build| build.suffix)),
            zero_copy,
            sends,
            build: build.clone(),
        })
    });
    rows.map(|row| Box::new(row) as Box<dyn Row>).collect()
}

/// Why `processes` of a build cannot run.
pub(super) fn unavailable(build: Option<&Build>, processes: u64) -> Option<String> {
    match build {
        None => Some(MISSING.to_owned()),
        Some(_) => eal::unavailable(MEMORY, processes),
    }
}

/// Every build, or once none: rows that cannot run are still listed.
pub(super) fn each_build() -> Vec<Option<Build>> {
    match builds() {
        [] => vec![None],
        builds => builds.iter().cloned().map(Some).collect(),
    }
}

impl Row for TestpmdRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        match (self.zero_copy, self.sends) {
            (false, Sends::Client) => {
                "testpmd over memif with two copies, client sends; descriptors only"
            }
            (false, Sends::Server) => {
                "testpmd over memif with two copies, server sends; descriptors only"
            }
            (true, Sends::Client) => "testpmd over memif zero-copy, client sends; descriptors only",
            (true, Sends::Server) => "testpmd over memif zero-copy, server sends; descriptors only",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        unavailable(self.build.as_ref(), 2)
    }

    fn supports(&self, size: usize) -> bool {
        fits(size)
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let build = self.build.as_ref().context(MISSING)?;
        let room = Room::new(MEMORY, 2)?;
        let start = |client: bool| {
            let sends = client == (self.sends == Sends::Client);
            let core = plan.cores[usize::from(!sends)];
            let mut command = build.command();
            room.furnish(&mut command, MEMORY, &[core]);
            let memif = Memif {
                port: 0,
                link: "memif",
                client,
                zero_copy: self.zero_copy,
                size: plan.size,
                ring_log2: RING_LOG2,
            };
            room.add_memif(&mut command, &memif);
            let mode = if sends { "txonly" } else { "rxonly" };
            Testpmd::start(command, mode, plan, &[], "start")
        };
        let server = start(false)?;
        let client = start(true)?;
        let (mut sender, mut receiver) = match self.sends {
            Sends::Client => (client, server),
            Sends::Server => (server, client),
        };
        let mut run = window(&mut sender, &mut receiver, plan)?;
        run.details = details(build, &receiver, &room, "net_memif");
        run.details.insert("ring".into(), json!(1 << RING_LOG2));
        run.details
            .insert("zero-copy".into(), json!(self.zero_copy));
        sender.process.end()?;
        receiver.process.end()?;
        Ok(run)
    }
}

/// Warm-up and window between one that sends and one that receives, then the balance of the two.
fn window(sender: &mut Testpmd, receiver: &mut Testpmd, plan: &Plan) -> Result<Throughput> {
    await_packets(receiver)?;
    interrupt::sleep(plan.warm_up)?;
    let sent = sender.stats(0)?.sent;
    let before = receiver.stats(0)?;
    interrupt::sleep(plan.duration)?;
    let after = receiver.stats(0)?;
    let sent = sender.stats(0)?.sent - sent;
    sender.stop()?;
    interrupt::sleep(DRAIN)?;
    let lost = sender.stats(0)?.sent - receiver.stats(0)?.received;
    let mut run = between(&before, &after, plan.size);
    run.sent = sent;
    run.lost = lost;
    Ok(run)
}

/// Waits until port 0 has received something: the link is up and both sides forward.
pub(super) fn await_packets(receiver: &mut Testpmd) -> Result<()> {
    let end = Instant::now() + ANSWER_LIMIT;
    while receiver.stats(0)?.received == 0 {
        if Instant::now() > end {
            bail!("no packet arrived within {} s", ANSWER_LIMIT.as_secs());
        }
        interrupt::sleep(POLL)?;
    }
    Ok(())
}

/// The packets received between two readings, at the rate that testpmd measured for the second.
pub(super) fn between(before: &Stats, after: &Stats, size: usize) -> Throughput {
    let packets = after.received - before.received;
    let elapsed = Duration::from_secs_f64(packets as f64 / (after.received_rate.max(1)) as f64);
    Throughput {
        packets,
        bytes: packets * size as u64,
        elapsed,
        cycles: (elapsed.as_nanos() as f64 / clock::ns_per_cycle()) as u64,
        ..Throughput::default()
    }
}

/// What every row of testpmd says about itself.
pub(super) fn details(
    build: &Build,
    one: &Testpmd,
    room: &Room,
    driver: &str,
) -> Map<String, Value> {
    let packaged = build.path.starts_with("/usr/bin");
    let kind = if packaged {
        "packaged, for every x86-64"
    } else {
        "built here"
    };
    let details = json!({
        "device": driver.trim_start_matches("net_"),
        "driver": driver,
        "program": build.path,
        "build": format!("{}, {kind}", one.version),
        "page": room.pages(),
        "mbufs": MBUFS,
        "mode": "descriptors",
    });
    match details {
        Value::Object(details) => details,
        _ => Map::new(),
    }
}

/// A running testpmd.
pub(super) struct Testpmd {
    pub(super) process: Process,
    version: String,
}

/// What `show port stats` says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) received_rate: u64,
}

impl Testpmd {
    /// Starts it forwarding in `mode` by the command `start`, with more application options.
    pub(super) fn start(
        mut command: Command,
        mode: &str,
        plan: &Plan,
        more: &[&str],
        start: &str,
    ) -> Result<Self> {
        command
            .args(["--", "-i", "--no-lsc-interrupt", "--disable-link-check"])
            .arg(format!("--total-num-mbufs={MBUFS}"))
            .arg(format!("--mbuf-size={}", buffer(plan.size) + 128))
            .arg(format!("--forward-mode={mode}"))
            .arg(format!("--burst={}", plan.burst))
            .args(more);
        if matches!(mode, "txonly" | "flowgen") {
            command.arg(format!("--txpkts={}", plan.size));
        }
        let mut process = Process::start(&format!("testpmd {mode}"), command)?;
        let version = process.hear(|line| {
            let version = line.split_once("RTE Version: '")?.1;
            Some(version.trim_end_matches('\'').to_owned())
        })?;
        process.say(start)?;
        process.hear(|line| line.contains("packet forwarding - ").then_some(()))?;
        Ok(Self { process, version })
    }

    /// The counters of a port.
    pub(super) fn stats(&mut self, port: usize) -> Result<Stats> {
        self.process.say(&format!("show port stats {port}"))?;
        let mut stats = Stats::default();
        self.process.hear(|line| {
            take(line, "RX-packets:", &mut stats.received);
            take(line, "TX-packets:", &mut stats.sent);
            take(line, "Rx-pps:", &mut stats.received_rate);
            line.trim_start().starts_with("Tx-pps:").then_some(())
        })?;
        Ok(stats)
    }

    /// Stops forwarding; the ports stay up.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.process.say("stop")?;
        self.process.hear(|line| (line == "Done.").then_some(()))
    }
}

/// Takes the number that follows `key` in a line, when it is there.
fn take(line: &str, key: &str, into: &mut u64) {
    let number = line
        .split_once(key)
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok());
    if let Some(number) = number {
        *into = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_after_their_names() {
        let line = "  RX-packets: 90624000   RX-missed: 0          RX-bytes:  5799936000";
        let (mut packets, mut bytes, mut other) = (0, 0, 7);
        take(line, "RX-packets:", &mut packets);
        take(line, "RX-bytes:", &mut bytes);
        take(line, "TX-packets:", &mut other);
        assert_eq!((packets, bytes, other), (90_624_000, 5_799_936_000, 7));
    }

    #[test]
    fn the_rate_is_testpmds_own() {
        let before = Stats {
            received: 100,
            ..Stats::default()
        };
        let after = Stats {
            received: 1100,
            received_rate: 500,
            ..Stats::default()
        };
        let run = between(&before, &after, 64);
        assert_eq!(
            (run.packets, run.bytes, run.elapsed.as_secs()),
            (1000, 64_000, 2)
        );
    }
}
