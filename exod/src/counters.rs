//! Counters and histograms of latencies: the page that [`libexo::abi::counters`] lays out.
//!
//! Counting is a load and a store on memory that is there already: no lock, no allocation, no
//! system call. Most words have one writer, the server's loop; those that other threads count too
//! say so.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libexo::abi::counters::{self, Counter, Job, SUM_NS};
use libexo::abi::wire::ErrorCode;

use crate::shared::SharedWords;

/// See the module.
#[derive(Debug)]
pub struct Counters(SharedWords);

impl Counters {
    /// All zero, but for the time.
    pub fn create() -> io::Result<Counters> {
        let words = SharedWords::create("exo-counters", counters::WORDS)?;
        let started = words.word(counters::STARTED_WORD);
        started.store(unix_ms(SystemTime::now()), Ordering::Relaxed);
        Ok(Counters(words))
    }

    /// What an admin gets.
    pub fn reader(&self) -> Arc<OwnedFd> {
        self.0.reader()
    }

    /// Length of the file.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Counts one. From the loop alone.
    pub fn count(&self, counter: Counter) {
        self.bump(counter.word(), 1);
    }

    /// Counts some, from any thread. A counter is counted always so, or never.
    pub fn add_shared(&self, counter: Counter, more: u64) {
        let word = self.0.word(counter.word());
        word.fetch_add(more, Ordering::Relaxed);
    }

    /// A request was answered. From the loop alone.
    pub fn answered(&self, op: u16, took: Duration) {
        let first = counters::op_histogram(op);
        let ns = nanoseconds(took);
        self.bump(first + counters::bucket(ns), 1);
        self.bump(first + SUM_NS, ns);
    }

    /// A request was refused. From the loop alone.
    pub fn refused(&self, code: ErrorCode) {
        self.bump(counters::refusals(code), 1);
    }

    /// A job was done. From any thread.
    pub fn done(&self, job: Job, took: Duration) {
        let ns = nanoseconds(took);
        for (word, more) in [(counters::bucket(ns), 1), (SUM_NS, ns)] {
            let word = self.0.word(job.histogram() + word);
            word.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn bump(&self, index: usize, more: u64) {
        let word = self.0.word(index);
        let sum = word.load(Ordering::Relaxed).wrapping_add(more);
        word.store(sum, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970; zero for a clock that is set before.
pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_read_through_the_descriptor() {
        let counters = Counters::create().expect("a page");
        counters.count(Counter::Grants);
        counters.add_shared(Counter::AuditLost, 3);
        counters.refused(ErrorCode::Quota);
        counters.answered(2, Duration::from_nanos(300));
        counters.answered(2, Duration::from_nanos(200));
        counters.done(Job::Make, Duration::from_secs(1000));
        let mut bytes = vec![0; counters.bytes()];
        rustix::io::pread(&*counters.reader(), &mut bytes, 0).expect("readable");
        let word = |at: usize| {
            let bytes = bytes[8 * at..8 * at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        assert!(word(counters::STARTED_WORD) > 1_600_000_000_000);
        assert_eq!(word(Counter::Grants.word()), 1);
        assert_eq!(word(Counter::AuditLost.word()), 3);
        assert_eq!(word(counters::refusals(ErrorCode::Quota)), 1);
        let op = counters::op_histogram(2);
        assert_eq!([word(op), word(op + 1), word(op + SUM_NS)], [1, 1, 500]);
        let last = Job::Make.histogram() + counters::BUCKETS - 1;
        assert_eq!(word(last), 1);
    }
}
