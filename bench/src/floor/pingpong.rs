//! Two lines, each written by one side: the time there and back.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::memory::Memory;
use crate::clock;
use crate::worker::{Meter, Report, Role, new_histogram};

/// Between the lines: the prefetcher fetches lines in pairs.
const APART: usize = 256;

pub(super) fn work(role: Role, mut meter: Meter, memory: &Memory) -> Result<Report> {
    // SAFETY: aligned words inside the mapping, which both sides access atomically alone.
    let (there, back) = unsafe {
        (
            AtomicU64::from_ptr(memory.at(0).cast()),
            AtomicU64::from_ptr(memory.at(APART).cast()),
        )
    };
    let mut histogram = new_histogram();
    let ns_per_cycle = clock::ns_per_cycle();
    let mut seq = 0;
    while meter.running() {
        seq += 1;
        if role == Role::Receiver {
            while there.load(Ordering::Acquire) != seq {
                if !meter.running() {
                    return Ok(meter.report());
                }
            }
            back.store(seq, Ordering::Release);
            continue;
        }
        let start = clock::cycles();
        there.store(seq, Ordering::Release);
        while back.load(Ordering::Acquire) != seq {
            if !meter.running() {
                return Ok(meter.report().with_round_trips(&histogram));
            }
        }
        let cycles = clock::cycles().wrapping_sub(start);
        if meter.in_window() {
            histogram.record((cycles as f64 * ns_per_cycle) as u64)?;
        }
    }
    Ok(meter.report().with_round_trips(&histogram))
}
