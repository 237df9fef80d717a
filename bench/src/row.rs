//! A row: one way to move packets from one process to another, that netbench can measure.
//!
//! A row knows how to set its link up, run it once and count honestly. It does not repeat, compare
//! or print: spread over repeats, tables and targets are made by the runner from the figures of
//! single runs. Every packet is written by the sender and read and checked by the receiver
//! (`pattern`), in two processes on two cores (`worker`), unless the row's `about` says otherwise.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::worker::{Job, Link, Report};

/// Whose work a row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// This project's ports and what stands on them.
    Ours,
    /// The machine's own limit: cache lines moved between two cores, with nothing around them.
    Floor,
    /// What the Linux kernel offers.
    Kernel,
    /// DPDK.
    Dpdk,
}

/// What to run: one size, one burst, for one window.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Bytes of each packet, all written and all checked.
    pub size: usize,
    /// Packets that are handed over at once.
    pub burst: usize,
    /// Length of the measured window.
    pub duration: Duration,
    /// Time that both sides run before the window opens.
    pub warm_up: Duration,
    /// Cores of the sender and of the receiver.
    pub cores: [usize; 2],
    /// How often the runner will call; a row runs once per call.
    pub repeats: u32,
}

/// What one run over one window counted.
#[derive(Debug, Clone, Default)]
pub struct Throughput {
    /// Packets that the receiver took inside the window.
    pub packets: u64,
    /// Bytes of these packets.
    pub bytes: u64,
    /// Length of the window as the receiver's clock saw it.
    pub elapsed: Duration,
    /// Packets that the sender handed over inside its window.
    pub sent: u64,
    /// Packets that were sent and never arrived, found by gaps in the sequence numbers.
    pub lost: u64,
    /// Packets whose bytes were not what the sender wrote.
    pub corrupt: u64,
    /// Timestamp-counter cycles of the window at the receiver.
    pub cycles: u64,
    /// What a reader needs to judge the figure: driver, mode, page kind, ring size, buffer stride,
    /// ...
    pub details: Map<String, Value>,
}

impl Throughput {
    /// The counts of a receiver and the `sent` of a sender; details of both, the receiver's win.
    pub fn from_reports(sender: Report, receiver: Report) -> Self {
        let mut details = sender.details;
        details.extend(receiver.details);
        Self {
            packets: receiver.packets,
            bytes: receiver.bytes,
            elapsed: Duration::from_nanos(receiver.elapsed_ns),
            sent: sender.packets,
            lost: receiver.lost,
            corrupt: receiver.corrupt,
            cycles: receiver.cycles,
            details,
        }
    }

    /// Million packets per second.
    pub fn mpps(&self) -> f64 {
        self.packets as f64 / self.elapsed.as_secs_f64() / 1e6
    }

    /// Gigabits of packet bytes per second.
    pub fn gbit(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64() / 1e9
    }
}

/// One more figure that only this row has, such as the time to attach.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Name of the metric: `attach`, `syscalls-per-packet`.
    pub metric: &'static str,
    /// Its value.
    pub value: f64,
    /// Its unit: `ms`, `calls/packet`.
    pub unit: &'static str,
}

/// One way to move packets between two processes.
pub trait Row: Send + Sync {
    /// The name that `--only` matches.
    fn name(&self) -> &str;

    /// What it is, in one line.
    fn about(&self) -> &str;

    /// Whose work it measures.
    fn kind(&self) -> Kind;

    /// Why it cannot run here, and what to do about it; `None` when it can.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// Whether packets of `size` bytes fit.
    fn supports(&self, size: usize) -> bool;

    /// The burst that is really used when `wanted` is asked for; a constant for rows without
    /// bursts.
    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted
    }

    /// Whether `throughput` means anything for this row; a ping-pong has only a round trip.
    fn has_throughput(&self) -> bool {
        true
    }

    /// Whether `round_trip` returns a histogram.
    fn has_round_trip(&self) -> bool {
        false
    }

    /// Runs once. Called only when `has_throughput`, `supports(plan.size)`, and not `unavailable`.
    fn throughput(&self, plan: &Plan) -> Result<Throughput>;

    /// Runs once: nanoseconds there and back, one packet under way at a time, both sides polling.
    fn round_trip(&self, _plan: &Plan) -> Result<Option<Histogram<u64>>> {
        Ok(None)
    }

    /// Runs once whatever else this row promises.
    fn figures(&self, _plan: &Plan) -> Result<Vec<Figure>> {
        Ok(Vec::new())
    }

    /// What a reader needs to judge such figures: driver, mode, page kind.
    fn details(&self) -> Map<String, Value> {
        Map::new()
    }

    /// The part of this row that runs in a worker process, pinned, inherited descriptors in
    /// `job.fds`.
    fn work(&self, job: Job, _link: Link) -> Result<Report> {
        bail!("the row `{}` has no worker for {:?}", self.name(), job.role)
    }
}
