//! What parent and worker say to each other: one JSON object per line.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Control, Meter};
use crate::row::Plan;

/// Significant digits of a histogram: errors below 0.1 %.
const DIGITS: u8 = 3;

/// What a worker does in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writes packets and sends them; in a round trip, starts it and measures it.
    Sender,
    /// Receives and checks packets; in a round trip, sends them back.
    Receiver,
    /// Stands between the two.
    Forwarder,
}

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As many packets as possible.
    Throughput,
    /// One packet there and back.
    RoundTrip,
}

/// What a worker is told before it starts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The row whose `work` runs.
    pub row: String,
    /// Which side this is.
    pub role: Role,
    /// What is measured.
    pub mode: Mode,
    /// Size, burst, cores.
    pub plan: Plan,
    /// Whether another worker may run on the same core: then none is preferred to the other.
    pub shares_core: bool,
    /// What the row's parent side wants to say, such as a port number.
    pub args: Value,
    /// The descriptors that the parent passed, in its order.
    #[serde(skip)]
    pub fds: Vec<OwnedFd>,
}

/// What a worker counted in its window.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Packets sent or received.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that never came, by sequence numbers.
    pub lost: u64,
    /// Packets with wrong bytes.
    pub corrupt: u64,
    /// Length of the window by this worker's clock.
    pub elapsed_ns: u64,
    /// The same in timestamp-counter cycles.
    pub cycles: u64,
    /// Ring sizes, modes, page kinds.
    pub details: Map<String, Value>,
    /// Round trips: pairs of nanoseconds and how often.
    pub round_trips_ns: Vec<(u64, u64)>,
}

impl Report {
    /// Adds one detail and returns the report.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Takes over the round trips of `histogram` (nanoseconds).
    #[must_use]
    pub fn with_round_trips(mut self, histogram: &Histogram<u64>) -> Self {
        let recorded = histogram.iter_recorded();
        self.round_trips_ns = recorded
            .map(|v| (v.value_iterated_to(), v.count_at_value()))
            .collect();
        self
    }

    /// The round trips as a histogram of nanoseconds.
    pub fn histogram(&self) -> Result<Histogram<u64>> {
        let mut histogram = new_histogram();
        for &(ns, count) in &self.round_trips_ns {
            histogram.record_n(ns, count)?;
        }
        if histogram.is_empty() {
            bail!("no round trip ended inside the window: run longer (--seconds)");
        }
        Ok(histogram)
    }
}

/// An empty histogram of the kind that all round trips use.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("3 digits are within the crate's 0 to 5")
}

/// A line from the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Down {
    /// The first line.
    Job(Job),
    /// Everyone is ready: start.
    Go,
}

/// A line from a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Up {
    /// Set up, with what the peer must know.
    Ready(Value),
    /// The last line of a good run.
    Result(Report),
    /// The last line of a bad one.
    Error(String),
}

/// A worker's line to its parent.
pub struct Link {
    pub(super) stream: BufReader<UnixStream>,
    pub(super) control: Arc<Control>,
}

impl Link {
    pub(super) fn new(stream: UnixStream, control: Control) -> Self {
        Self {
            stream: BufReader::new(stream),
            control: Arc::new(control),
        }
    }

    /// Says that this side is set up, with what the other side must know, waits until the run
    /// starts, and returns the meter to run it by.
    pub fn ready(&mut self, info: Value) -> Result<Meter> {
        send(self.stream.get_mut(), &Up::Ready(info))?;
        match receive(&mut self.stream)? {
            Some(Down::Go) => Ok(Meter::new(self.control.clone())),
            Some(Down::Job(_)) => bail!("the parent sent a second job"),
            None => bail!("the parent went away"),
        }
    }
}

pub(super) fn send(stream: &mut UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .context("the other side of the socketpair went away")
}

/// The next message; `None` at the end of the stream.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(
    stream: &mut BufReader<UnixStream>,
) -> Result<Option<T>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(
        serde_json::from_str(&line).with_context(|| format!("unreadable line: {line}"))?,
    ))
}
