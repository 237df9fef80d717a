//! Packets as bare lines: one core writes every byte, the other reads and checks every byte.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::memory::{BYTES, Memory};
use crate::pattern;
use crate::worker::{Job, Meter, Report, Role};

/// The largest packet: a port's largest piece.
pub(super) const SIZE_MAX: usize = 65_472;

/// Where the reader says how far it is; nobody else's line is near.
const TAKEN: usize = 0;
/// Where entries of the signalling ring are.
const SIGNALS: usize = 4096;
/// The most slots of a ring.
const SLOTS_MAX: usize = 1 << 14;
/// Where packets are.
const PACKETS: usize = SIGNALS + 8 * SLOTS_MAX;

/// One way to arrange the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Variant {
    /// Packets in the ring.
    pub(super) slots: usize,
    /// Packets that the reader asks for ahead of the one that it reads.
    pub(super) prefetch: usize,
    /// Eight bytes beside each packet say that it is there; else one counter per burst does.
    pub(super) entries: bool,
}

impl Variant {
    pub(super) fn mode(self) -> &'static str {
        if self.entries {
            "an 8-byte entry per packet"
        } else {
            "a counter per burst"
        }
    }
}

/// Every variant that is worth a trial.
pub(super) fn variants(size: usize, burst: usize) -> Vec<Variant> {
    let stride = size.next_multiple_of(64);
    let rings = [256, 512, 1024, 2048, 4096, 8192, SLOTS_MAX];
    let fits = |slots: &usize| *slots >= 2 * burst && PACKETS + slots * stride <= BYTES;
    let mut all = Vec::new();
    for slots in rings.into_iter().filter(fits) {
        for prefetch in [0, 4, 16, 32] {
            for entries in [true, false] {
                all.push(Variant {
                    slots,
                    prefetch,
                    entries,
                });
            }
        }
    }
    all
}

/// The ring as one side sees it.
struct Stream<'m> {
    memory: &'m Memory,
    variant: Variant,
    stride: usize,
    size: usize,
}

impl Stream<'_> {
    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: an aligned word inside the mapping, accessed atomically alone by both sides.
        unsafe { AtomicU64::from_ptr(self.memory.at(offset).cast()) }
    }

    #[inline(always)]
    fn entry(&self, seq: u64) -> &AtomicU64 {
        self.word(SIGNALS + 8 * (seq as usize & (self.variant.slots - 1)))
    }

    #[inline(always)]
    fn packet(&self, seq: u64) -> *mut u8 {
        self.memory
            .at(PACKETS + self.stride * (seq as usize & (self.variant.slots - 1)))
    }

    #[inline(always)]
    fn prefetch(&self, seq: u64) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect but on caches.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.packet(seq).cast());
        }
    }
}

pub(super) fn work(job: &Job, variant: Variant, meter: Meter, memory: &Memory) -> Result<Report> {
    let size = job.plan.size;
    let stream = Stream {
        memory,
        variant,
        stride: size.next_multiple_of(64),
        size,
    };
    let burst = job.plan.burst as u64;
    Ok(match (job.role, size) {
        // A size that the compiler knows leaves nothing but the loads and stores themselves.
        (Role::Sender, 64) => write::<64>(&stream, burst, meter),
        (Role::Sender, _) => write::<0>(&stream, burst, meter),
        (_, 64) => read::<64>(&stream, burst, meter),
        _ => read::<0>(&stream, burst, meter),
    })
}

#[inline(always)]
fn write<const SIZE: usize>(stream: &Stream<'_>, burst: u64, mut meter: Meter) -> Report {
    let size = if SIZE == 0 { stream.size } else { SIZE };
    let (taken, counter) = (stream.word(TAKEN), stream.word(SIGNALS));
    let (mut next, mut read) = (0, 0);
    while meter.running() {
        if next + burst - read > stream.variant.slots as u64 {
            read = taken.load(Ordering::Acquire);
            if next + burst - read > stream.variant.slots as u64 {
                std::hint::spin_loop();
                continue;
            }
        }
        for seq in next..next + burst {
            // SAFETY: the slot has `stride` bytes, at least `size`, and its reader is done with it.
            unsafe { pattern::fill_raw(stream.packet(seq), size, seq) };
        }
        if stream.variant.entries {
            for seq in next..next + burst {
                stream.entry(seq).store(seq + 1, Ordering::Release);
            }
        }
        next += burst;
        if !stream.variant.entries {
            counter.store(next, Ordering::Release);
        }
        meter.count(burst, burst * size as u64);
    }
    meter.report()
}

#[inline(always)]
fn read<const SIZE: usize>(stream: &Stream<'_>, burst: u64, mut meter: Meter) -> Report {
    let size = if SIZE == 0 { stream.size } else { SIZE };
    let (taken, counter) = (stream.word(TAKEN), stream.word(SIGNALS));
    let ahead = stream.variant.prefetch as u64;
    let mut next = 0;
    while meter.running() {
        let mut end = next;
        if stream.variant.entries {
            while end < next + burst && stream.entry(end).load(Ordering::Acquire) == end + 1 {
                stream.prefetch(end);
                end += 1;
            }
        } else {
            end = counter.load(Ordering::Acquire).min(next + burst);
        }
        if end == next {
            std::hint::spin_loop();
            continue;
        }
        let mut bad = 0;
        for seq in next..end {
            if ahead > 0 {
                stream.prefetch(seq + ahead);
            }
            // SAFETY: the slot has `size` bytes, which its writer leaves alone until `taken` passes
            // it.
            bad += u64::from(!unsafe { pattern::check_raw(stream.packet(seq), size, seq) });
        }
        let count = end - next;
        next = end;
        taken.store(next, Ordering::Release);
        meter.sequence.saw_next(count);
        meter.count(count - bad, (count - bad) * size as u64);
        meter.corrupt(bad);
    }
    meter.report()
}
