//! The two workers of a port row.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use libexo::port::{PeerPacket, Port, PortConfig};
use libexo::shm::{LineReader, PeerBytes};
use libexo::{Client, Error};
use serde_json::json;

use super::Way;
use crate::clock;
use crate::pattern::{self, STEP};
use crate::worker::{Job, Link, Meter, Mode, Report, Role, new_histogram};

/// The port's name: each run has an exod of its own.
pub(super) const NAME: &str = "netbench";
/// From this size on packets are copied into memory that stays in the first-level cache, and
/// checked there by the widest instructions.
const COPY_MIN: usize = 512;
/// How long a side waits for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn work(way: Way, mut job: Job, mut link: Link) -> Result<Report> {
    let client = Client::over(job.fds.pop().context("no session was passed")?)?;
    let config = super::config(job.plan.size, way);
    let (mut port, meter) = if job.role == Role::Sender {
        let waiting = Port::create(&client, NAME, config)?;
        let meter = link.ready(json!({}))?;
        (waiting.ready(PATIENCE)?, meter)
    } else {
        let port = Port::join(&client, NAME, config)?;
        (port, link.ready(json!({}))?)
    };
    let report = match (job.mode, job.role) {
        // A size that the compiler knows, as in an application whose packets have one.
        (Mode::Throughput, Role::Sender) if job.plan.size == 64 => {
            flood(64, &job, meter, &mut port)
        }
        (Mode::Throughput, Role::Sender) => flood(job.plan.size, &job, meter, &mut port),
        (Mode::Throughput, _) if job.plan.size == 64 => drain(way, 64, &job, meter, &mut port),
        (Mode::Throughput, _) => drain(way, job.plan.size, &job, meter, &mut port),
        (Mode::RoundTrip, Role::Sender) => ask(way, &job, meter, &mut port),
        (Mode::RoundTrip, _) => answer(way, &job, meter, &mut port),
    }?;
    Ok(describe(report, &client, &config, way))
}

pub(super) fn describe(report: Report, client: &Client, config: &PortConfig, way: Way) -> Report {
    let mode = match way {
        Way::Port => "every byte read as a peer's",
        Way::Trusted => "slices",
        Way::Descriptors => "descriptors only",
        Way::Forward => "own header, foreign payload",
    };
    report
        .with("device", "port")
        .with("driver", "libexo")
        .with("mode", mode)
        .with("page", client.session().page_kind.name())
        .with("ring", 1u64 << config.ring_log2)
        .with("buffers", config.buffers_max)
        .with("stride", config.buffer_len)
}

#[inline(always)]
fn flood(size: usize, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    let burst = job.plan.burst;
    let mut seq = 0;
    while meter.running() {
        let sent = port.send_with(burst, size, |k, packet| {
            pattern::fill(&mut packet[..size], seq + u64::from(k))
        });
        match sent {
            Ok(0) => std::hint::spin_loop(),
            Ok(sent) => {
                seq += sent as u64;
                meter.count(sent as u64, (sent * size) as u64);
            }
            Err(error) => return over(error, meter),
        }
    }
    Ok(meter.report())
}

/// The peer was told to stop too, and may be faster.
fn over(error: Error, mut meter: Meter) -> Result<Report> {
    let end = std::time::Instant::now() + PATIENCE;
    while meter.running() {
        if !matches!(error, Error::PeerGone | Error::Revoked) || std::time::Instant::now() > end {
            bail!(error);
        }
    }
    Ok(meter.report())
}

#[inline(always)]
fn drain(way: Way, size: usize, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    let mut scratch = vec![0; size];
    while meter.running() {
        let packets = match port.receive_burst(job.plan.burst) {
            Ok(packets) => packets,
            Err(error) => return over(error, meter),
        };
        if packets.is_empty() {
            std::hint::spin_loop();
            continue;
        }
        let (first, mut bad) = (meter.sequence.expected(), 0);
        let count = packets.len() as u64;
        match way {
            Way::Descriptors => {
                for packet in packets {
                    bad += u64::from(packet.len() != size);
                }
            }
            _ => {
                for (packet, seq) in packets.zip(first..) {
                    bad += u64::from(!is_packet(way, &packet, size, seq, &mut scratch)?);
                }
            }
        }
        // A port loses nothing and keeps the order: a packet that is not the expected one is
        // corrupt.
        meter.sequence.saw_next(count);
        meter.count(count - bad, (count - bad) * size as u64);
        meter.corrupt(bad);
    }
    Ok(meter.report())
}

#[inline(always)]
fn is_packet(
    way: Way,
    packet: &PeerPacket<'_>,
    size: usize,
    seq: u64,
    scratch: &mut [u8],
) -> Result<bool> {
    if packet.len() != size {
        return Ok(false);
    }
    match way {
        Way::Trusted => {
            let slice = packet
                .as_trusted_slice()
                .context("the port is not trusted after all")?;
            Ok(pattern::check(slice, seq))
        }
        _ if size < COPY_MIN => {
            let bytes = packet.bytes();
            Ok(bytes.len() == size && check_peer(bytes, seq)?)
        }
        _ => {
            let copied = packet.bytes().copy_to(scratch)?;
            Ok(pattern::check(&scratch[..copied], seq))
        }
    }
}

/// Whether a peer's bytes are packet `seq`: each read once, none copied to memory.
#[inline(always)]
pub(super) fn check_peer(bytes: PeerBytes<'_>, seq: u64) -> Result<bool> {
    let comparison = bytes.read_lines(Comparison {
        next: seq,
        difference: [0; 8],
    })?;
    Ok(comparison.difference.iter().fold(0, |all, word| all | word) == 0)
}

/// Compares lines with those of one packet.
struct Comparison {
    next: u64,
    difference: [u64; 8],
}

impl LineReader for Comparison {
    #[inline(always)]
    fn line(&mut self, mut line: [u64; 8], len: usize) {
        let mut expected = [0; 8];
        for (k, word) in expected.iter_mut().enumerate() {
            *word = self.next.wrapping_add(STEP.wrapping_mul(k as u64));
        }
        if len < 64 {
            keep(&mut line, &expected, len);
        }
        for k in 0..8 {
            self.difference[k] |= line[k] ^ expected[k];
        }
        self.next = self.next.wrapping_add(STEP.wrapping_mul(8));
    }
}

/// Makes what lies behind the first `len` bytes of the last line as expected: there is nothing.
#[inline(always)]
fn keep(line: &mut [u64; 8], expected: &[u64; 8], len: usize) {
    for (k, word) in line.iter_mut().enumerate() {
        let bytes = len.saturating_sub(8 * k);
        if bytes < 8 {
            *word |= expected[k] & u64::MAX << (8 * bytes);
        }
    }
}

/// One packet under way: sends, waits for the echo, and notes the time.
fn ask(way: Way, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    let mut scratch = vec![0; job.plan.size];
    let mut histogram = new_histogram();
    let ns_per_cycle = clock::ns_per_cycle();
    let mut seq = 0;
    while meter.running() {
        let start = clock::cycles();
        if send_one(port, job.plan.size, seq)? == 0 {
            continue;
        }
        let good = loop {
            if let Some(good) = receive_one(way, job.plan.size, port, seq, &mut scratch)? {
                break good;
            }
            if !meter.running() {
                return Ok(meter.report().with_round_trips(&histogram));
            }
        };
        let cycles = clock::cycles().wrapping_sub(start);
        port.warm_up();
        seq += 1;
        meter.count(u64::from(good), job.plan.size as u64);
        meter.corrupt(u64::from(!good));
        if meter.in_window() {
            histogram.record((cycles as f64 * ns_per_cycle) as u64)?;
        }
    }
    Ok(meter.report().with_round_trips(&histogram))
}

/// Reads and checks a packet, and writes a new one for an answer.
fn answer(way: Way, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    let mut scratch = vec![0; job.plan.size];
    let mut seq = 0;
    while meter.running() {
        match receive_one(way, job.plan.size, port, seq, &mut scratch) {
            Ok(None) => {}
            Ok(Some(good)) => {
                meter.corrupt(u64::from(!good));
                meter.count(u64::from(good), job.plan.size as u64);
                while send_one(port, job.plan.size, seq)? == 0 && meter.running() {}
                seq += 1;
                port.warm_up();
            }
            Err(error) => return over(error, meter),
        }
    }
    Ok(meter.report())
}

#[inline(always)]
fn send_one(port: &mut Port, size: usize, seq: u64) -> Result<usize> {
    Ok(port.send_with(1, size, |_, packet| pattern::fill(packet, seq))?)
}

#[inline(always)]
fn receive_one(
    way: Way,
    size: usize,
    port: &mut Port,
    seq: u64,
    scratch: &mut [u8],
) -> Result<Option<bool>, Error> {
    let mut packets = port.receive_burst(1)?;
    Ok(packets
        .next()
        .map(|packet| is_packet(way, &packet, size, seq, scratch).unwrap_or(false)))
}
