//! The loops that all kernel rows share: flood and count, or ask and wait for the answer.
#![forbid(unsafe_code)]

use std::io;

use anyhow::Result;

use crate::clock;
use crate::worker::{Job, Meter, Mode, Report, Role, new_histogram};

/// A question without an answer for this many cycles (0.1 s or so) is lost and asked again.
const ANSWER_CYCLES_MAX: u64 = 250_000_000;

/// One side of a link, without waiting.
pub(super) trait Endpoint {
    /// Writes and sends up to a burst of packets, numbered from `seq`; returns how many were taken.
    fn send(&mut self, seq: u64) -> io::Result<usize>;

    /// Takes and checks what is there, at most a burst; returns how many.
    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize>;
}

/// Runs one side of one run.
pub(super) fn drive(job: &Job, mut meter: Meter, link: &mut impl Endpoint) -> Result<Report> {
    match (job.mode, job.role) {
        (Mode::Throughput, Role::Sender) => flood(job.plan.size as u64, meter, link),
        (Mode::Throughput, _) => {
            while meter.running() {
                link.receive(&mut meter)?;
            }
            Ok(meter.report())
        }
        (Mode::RoundTrip, Role::Sender) => ask(meter, link),
        (Mode::RoundTrip, _) => {
            while meter.running() {
                if link.receive(&mut meter)? > 0 {
                    let seq = meter.sequence.expected().saturating_sub(1);
                    while link.send(seq)? == 0 && meter.running() {}
                }
            }
            Ok(meter.report())
        }
    }
}

fn flood(size: u64, mut meter: Meter, link: &mut impl Endpoint) -> Result<Report> {
    let mut seq = 0;
    while meter.running() {
        let sent = link.send(seq)? as u64;
        seq += sent;
        meter.count(sent, sent * size);
    }
    Ok(meter.report())
}

fn ask(mut meter: Meter, link: &mut impl Endpoint) -> Result<Report> {
    let mut histogram = new_histogram();
    let ns_per_cycle = clock::ns_per_cycle();
    let mut seq = 0;
    while meter.running() {
        let start = clock::cycles();
        if link.send(seq)? == 0 {
            continue;
        }
        seq += 1;
        let cycles = loop {
            let answered = link.receive(&mut meter)? > 0;
            let cycles = clock::cycles().wrapping_sub(start);
            if answered {
                break Some(cycles);
            }
            if cycles > ANSWER_CYCLES_MAX {
                break None;
            }
        };
        if let Some(cycles) = cycles.filter(|_| meter.in_window()) {
            histogram.record((cycles as f64 * ns_per_cycle) as u64)?;
        }
    }
    Ok(meter.report().with_round_trips(&histogram))
}

/// A call that found nothing to do, as 0.
pub(super) fn or_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        // ENOBUFS: the queue is full. ECONNREFUSED, EPIPE, ECONNRESET: the peer stopped a moment
        // before us.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(
                    libc::EAGAIN
                        | libc::EINTR
                        | libc::ENOBUFS
                        | libc::ECONNREFUSED
                        | libc::EPIPE
                        | libc::ECONNRESET
                )
            ) =>
        {
            Ok(0)
        }
        other => other,
    }
}
