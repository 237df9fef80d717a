//! Three domains on two cores: the source and the sink share one, the forwarder has the other.
//!
//! The forwarder reads the header of each packet, once, writes a header of its own with other
//! addresses, and sends it on with the payload where it lies, in the source's memory, which the
//! sink may read since the source opened its port for sharing. The sink reads and checks every
//! byte.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use libexo::port::Port;
use libexo::{Client, Error};
use serde_json::json;

use super::Way;
use super::work::{PATIENCE, check_peer, describe};
use crate::pattern;
use crate::worker::{Job, Link, Meter, Report, Role, pin};

/// Destination, source, ethertype.
pub(super) const HEADER_BYTES: usize = 14;
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FORWARDER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SINK: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// Packets that the forwarder takes at a time.
const BURST: usize = 64;

const IN: &str = "netbench-in";
const OUT: &str = "netbench-out";

pub(super) fn work(mut job: Job, mut link: Link) -> Result<Report> {
    let client = Client::over(job.fds.pop().context("no session was passed")?)?;
    let config = super::config(job.plan.size, Way::Forward);
    let report = match job.role {
        Role::Sender => {
            let waiting = Port::create(&client, IN, config)?;
            let meter = link.ready(json!({}))?;
            let mut port = waiting.ready(PATIENCE)?;
            // A size that the compiler knows, as in an application whose packets have one.
            match job.plan.size {
                64 => source(64, &job, meter, &mut port),
                size => source(size, &job, meter, &mut port),
            }
        }
        Role::Forwarder => {
            pin(job.plan.cores[1])?;
            let from = Port::join(&client, IN, config)?;
            let to = super::config(64, Way::Forward);
            let waiting = Port::create(&client, OUT, to)?;
            let meter = link.ready(json!({}))?;
            forward(meter, from, waiting.ready(PATIENCE)?)
        }
        Role::Receiver => {
            pin(job.plan.cores[0])?;
            let mut port = Port::join(&client, OUT, config)?;
            let meter = link.ready(json!({}))?;
            match job.plan.size {
                64 => sink(64, &job, meter, &mut port),
                size => sink(size, &job, meter, &mut port),
            }
        }
    }?;
    Ok(describe(report, &client, &config, Way::Forward))
}

/// The source and the sink share a core: who finds nothing to do lets the other run.
fn nothing_to_do() {
    std::thread::yield_now();
}

#[inline(always)]
fn source(size: usize, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    let burst = job.plan.burst;
    let mut seq = 0;
    while meter.running() {
        let sent = port.send_with(burst, size, |k, packet| {
            let (header, payload) = packet.split_at_mut(HEADER_BYTES);
            header[..6].copy_from_slice(&FORWARDER);
            header[6..12].copy_from_slice(&SOURCE);
            header[12..].copy_from_slice(&ETHERTYPE);
            pattern::fill(payload, seq + u64::from(k));
        });
        match sent {
            Ok(0) => nothing_to_do(),
            Ok(sent) => {
                seq += sent as u64;
                meter.count(sent as u64, (sent * size) as u64);
            }
            Err(Error::PeerGone | Error::Revoked) => nothing_to_do(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(meter.report())
}

fn forward(mut meter: Meter, mut from: Port, mut to: Port) -> Result<Report> {
    to.share_from(&mut from)?;
    while meter.running() {
        let done = to.forward_burst(
            &mut from,
            BURST,
            HEADER_BYTES,
            HEADER_BYTES,
            |frame, head| {
                let header: [u8; HEADER_BYTES] = frame.bytes().head()?;
                head[..6].copy_from_slice(&SINK);
                head[6..12].copy_from_slice(&FORWARDER);
                head[12..].copy_from_slice(&header[12..]);
                Ok(true)
            },
        );
        match done {
            Ok(done) => meter.count(done.sent as u64, 0),
            Err(Error::PeerGone | Error::Revoked) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(meter.report())
}

#[inline(always)]
fn sink(size: usize, job: &Job, mut meter: Meter, port: &mut Port) -> Result<Report> {
    while meter.running() {
        let packets = match port.receive_burst(job.plan.burst) {
            Ok(packets) => packets,
            Err(Error::PeerGone | Error::Revoked) => {
                nothing_to_do();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if packets.is_empty() {
            nothing_to_do();
            continue;
        }
        let (first, count, mut bad) = (meter.sequence.expected(), packets.len() as u64, 0);
        for (packet, seq) in packets.zip(first..) {
            let mut pieces = packet.pieces();
            let (Some(head), Some(payload)) = (pieces.next(), pieces.next()) else {
                bad += 1;
                continue;
            };
            let header: [u8; HEADER_BYTES] = head.head()?;
            let good = header[..6] == SINK
                && header[6..12] == FORWARDER
                && header[12..] == ETHERTYPE
                && payload.len() == size - HEADER_BYTES
                && check_peer(payload, seq)?;
            bad += u64::from(!good);
        }
        meter.sequence.saw_next(count);
        meter.count(count - bad, (count - bad) * size as u64);
        meter.corrupt(bad);
    }
    Ok(meter.report())
}
