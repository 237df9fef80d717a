//! The counters page: what exod has done since it started, in shared memory that it writes and an
//! admin reads.
//!
//! Words of 64 bits that only rise, each stored whole, so that reading them costs exod nothing and
//! wakes nobody. Histograms have one bucket for each power of two nanoseconds; the count of a
//! histogram is the sum of its buckets. Slots are fixed: a new operation or job takes one that was
//! free, and what a reader does not know reads as zero.

use super::wire::ErrorCode;

/// Word that says when exod started, in milliseconds since 1970.
pub const STARTED_WORD: usize = 0;

/// Buckets of a histogram; the last one has no upper bound.
pub const BUCKETS: usize = 30;

/// log2 of the first bucket's upper bound in nanoseconds: what a request costs at least.
pub const FIRST_BUCKET_LOG2: u32 = 8;

/// Words of a histogram: its buckets, the sum in nanoseconds, and one that is free.
pub const HISTOGRAM_WORDS: usize = 32;

/// Operations that have a histogram, by their number; numbers beyond share the first.
pub const OPS_MAX: usize = 64;

/// Jobs that have a histogram.
pub const JOBS_MAX: usize = 16;

const ERRORS_MAX: usize = 64;
const COUNTERS_AT: usize = 8;
const REFUSALS_AT: usize = 64;
const OPS_AT: usize = REFUSALS_AT + ERRORS_MAX;
const JOBS_AT: usize = OPS_AT + OPS_MAX * HISTOGRAM_WORDS;

/// Words of the page.
pub const WORDS: usize = JOBS_AT + JOBS_MAX * HISTOGRAM_WORDS;

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $item:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum $name { $($(#[$each])* $item,)* }

        impl $name {
            /// Every one, in the order of their words.
            pub const ALL: &[$name] = &[$($name::$item,)*];

            /// Its name in metrics and logs.
            pub fn name(self) -> &'static str {
                match self { $($name::$item => $text,)* }
            }
        }
    };
}

numbered! {
    /// Single counters.
    Counter {
        /// Connections that were accepted and identified.
        SessionsBegun = "begun",
        /// Connections that were refused: too many sessions, or a peer without an identity.
        SessionsRefused = "refused",
        /// Sessions that ended because the client closed its socket.
        EndedHungUp = "hung_up",
        /// Sessions that ended with the client's process.
        EndedDied = "died",
        /// Sessions that exod ended: the client broke the protocol.
        EndedViolation = "violation",
        /// Sessions that exod ended: no rule names the client.
        EndedUnwelcome = "unwelcome",
        /// Sessions whose socket failed.
        EndedFailed = "failed",
        /// Requests that were granted a capability.
        Grants = "grants",
        /// Capabilities that were taken by force.
        Losses = "losses",
        /// Turns of the loop: how often exod woke, idle or not.
        Turns = "turns",
        /// Events that belong into the audit trail.
        AuditEvents = "audit_events",
        /// Of these, those that could not be written.
        AuditLost = "audit_lost",
    }
}

numbered! {
    /// Slow kernel calls, which run on worker threads.
    Job {
        /// A unit is made for a request.
        Make = "make",
        /// A unit is made to be kept ready.
        Stock = "stock",
        /// A unit is taken back from all who map it.
        Break = "break",
        /// Pinned frames are asked for.
        Poll = "poll",
        /// The rings of a port are looked at.
        Look = "look",
        /// Ready units that nobody wants any more are given back.
        Discard = "discard",
        /// The kernel's pool of hugepages is changed.
        Raise = "raise",
        /// Cores and limits are reserved.
        Reserve = "reserve",
        /// The configuration is read again.
        Reload = "reload",
    }
}

impl Counter {
    /// Its word.
    pub const fn word(self) -> usize {
        COUNTERS_AT + self as usize
    }
}

impl Job {
    /// First word of its histogram.
    pub const fn histogram(self) -> usize {
        JOBS_AT + self as usize * HISTOGRAM_WORDS
    }
}

/// First word of an operation's histogram. What no operation has as its number shares the first.
pub const fn op_histogram(op: u16) -> usize {
    let slot = if (op as usize) < OPS_MAX {
        op as usize
    } else {
        0
    };
    OPS_AT + slot * HISTOGRAM_WORDS
}

/// Word that counts refusals with this error.
pub const fn refusals(code: ErrorCode) -> usize {
    REFUSALS_AT + code as usize % ERRORS_MAX
}

/// The bucket of a duration.
#[inline]
pub const fn bucket(ns: u64) -> usize {
    let log2 = u64::BITS - ns.leading_zeros();
    let above = log2.saturating_sub(FIRST_BUCKET_LOG2) as usize;
    if above < BUCKETS { above } else { BUCKETS - 1 }
}

/// Upper bound of a bucket in nanoseconds: what is in it is less. None for the last.
pub const fn bucket_end_ns(bucket: usize) -> Option<u64> {
    if bucket < BUCKETS - 1 {
        Some(1 << (bucket as u32 + FIRST_BUCKET_LOG2))
    } else {
        None
    }
}

/// Word of a histogram that sums nanoseconds.
pub const SUM_NS: usize = BUCKETS;

const _: () = assert!(Counter::ALL.len() <= REFUSALS_AT - COUNTERS_AT);
const _: () = assert!(Job::ALL.len() <= JOBS_MAX && SUM_NS < HISTOGRAM_WORDS);

#[cfg(test)]
mod tests {
    use super::super::wire::Op;
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_that_ends_after_it() {
        for ns in [0, 1, 255, 256, 257, 1 << 20, (1 << 36) - 1] {
            let at = bucket(ns);
            assert!(bucket_end_ns(at).is_some_and(|end| ns < end), "{ns}");
            assert!(
                at == 0 || bucket_end_ns(at - 1).is_some_and(|end| ns >= end),
                "{ns}"
            );
        }
        assert_eq!(bucket(1 << 36), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_end_ns(BUCKETS - 1), None);
    }

    #[test]
    fn no_two_things_share_a_word() {
        let mut firsts = vec![STARTED_WORD];
        firsts.extend(Counter::ALL.iter().map(|c| c.word()));
        firsts.extend((1..=17).filter_map(ErrorCode::from_raw).map(refusals));
        let single = firsts.len();
        firsts.push(op_histogram(u16::MAX));
        firsts.extend(Op::ALL.map(|op| op_histogram(op as u16)));
        firsts.extend(Job::ALL.iter().map(|job| job.histogram()));
        let spans = firsts.iter().enumerate().map(|(n, at)| {
            let words = if n < single { 1 } else { HISTOGRAM_WORDS };
            (*at, at + words)
        });
        let mut spans: Vec<_> = spans.collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|two| two[0].1 <= two[1].0));
        assert!(spans.last().is_some_and(|last| last.1 <= WORDS));
    }
}
