//! exod's page of counters, read.
//!
//! The page is a file of exod's that it goes on writing; reading it asks nobody and wakes nobody.
//! It is read at a time of the reader's choice, not mapped, so what one sees is one moment's copy
//! (word for word: two counters of one copy may be some requests apart).

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use crate::abi::counters::{self, BUCKETS, Counter, Job, STARTED_WORD, SUM_NS};
use crate::abi::wire::{ErrorCode, Op};
use crate::{Error, Result};

/// The page.
#[derive(Debug)]
pub struct Counters {
    page: OwnedFd,
}

/// What the page said at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    words: Vec<u64>,
}

/// Latencies: how many in each bucket of [`counters::bucket_end_ns`], and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many.
    pub buckets: [u64; BUCKETS],
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
}

impl Counters {
    pub(crate) fn new(page: OwnedFd) -> Counters {
        Counters { page }
    }

    /// Reads all of it.
    pub fn read(&self) -> Result<Snapshot> {
        let mut bytes = vec![0; 8 * counters::WORDS];
        let read = rustix::io::pread(&self.page, &mut bytes, 0);
        if read.map_err(Error::system("pread of the counters"))? != bytes.len() {
            return Err(Error::Revoked);
        }
        let (words, _) = bytes.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(Snapshot { words })
    }
}

impl Snapshot {
    /// When exod started, in milliseconds since 1970.
    pub fn started_ms(&self) -> u64 {
        self.words[STARTED_WORD]
    }

    /// One counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.words[counter.word()]
    }

    /// Requests that were refused for this reason.
    pub fn refusals(&self, code: ErrorCode) -> u64 {
        self.words[counters::refusals(code)]
    }

    /// How long requests took: from when exod had read one until its answer was ready. None: those
    /// that name no operation.
    pub fn requests(&self, op: Option<Op>) -> Histogram {
        self.histogram(counters::op_histogram(op.map_or(0, |op| op as u16)))
    }

    /// How long jobs took: from when they were posted until they were done.
    pub fn jobs(&self, job: Job) -> Histogram {
        self.histogram(job.histogram())
    }

    fn histogram(&self, first: usize) -> Histogram {
        let mut buckets = [0; BUCKETS];
        buckets.copy_from_slice(&self.words[first..first + BUCKETS]);
        Histogram {
            buckets,
            sum_ns: self.words[first + SUM_NS],
        }
    }
}

impl Histogram {
    /// All that were counted.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |all, more| all.wrapping_add(*more))
    }

    /// An upper bound of what so many of a hundred took at most, in nanoseconds. None where nothing
    /// was counted, or where it is beyond the last bound.
    pub fn percentile_ns(&self, percent: u64) -> Option<u64> {
        let wanted = (self.count().checked_mul(percent)?).div_ceil(100).max(1);
        let mut seen = 0u64;
        let at = self.buckets.iter().position(|more| {
            seen = seen.saturating_add(*more);
            seen >= wanted
        })?;
        counters::bucket_end_ns(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bounds() {
        let mut latencies = Histogram::default();
        assert_eq!(latencies.percentile_ns(50), None);
        latencies.buckets[0] = 98;
        latencies.buckets[3] = 1;
        latencies.buckets[BUCKETS - 1] = 1;
        assert_eq!(latencies.count(), 100);
        assert_eq!(latencies.percentile_ns(50), Some(256));
        assert_eq!(latencies.percentile_ns(99), Some(2048));
        assert_eq!(latencies.percentile_ns(100), None);
    }
}
