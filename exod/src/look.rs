//! How much has passed a port, from outside, without a cost to those who use it.
//!
//! A ring has no index that exod could read: an entry carries the lap that wrote it, and that is
//! all. Where the laps change is where the sender is, so a search by halves over the ring tells
//! its position, but only modulo two laps. Beside that, each side writes into its control page how
//! much it has sent, at least once a ring; both together are exact, and no packet pays for it.
//!
//! exod maps none of this: a client writes it. Eight bytes at a time are read from the file. A page
//! may have been swapped out, so that is for a job thread. What is read is a client's word about
//! itself, counts for nobody else, and can be anything.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use libexo::abi::port::{Descriptor, Layout, SENT_WORD};

/// How often a look begins anew because the sender went too far meanwhile.
const TRIES: u32 = 4;

/// Descriptors that a side has sent, by its segment; none where the file cannot be read (it was
/// taken back). `ring_log2` is exod's own knowledge.
pub fn sent(segment: impl AsFd, ring_log2: u32) -> Option<u64> {
    let segment = segment.as_fd();
    let slots = 1u64 << ring_log2;
    let told = || word(segment, 8 * SENT_WORD as u64);
    let mut before = told()?;
    for _ in 0..TRIES {
        let position = position(segment, ring_log2)?;
        let after = told()?;
        // At most a ring was sent since the side said so: no doubt remains about the laps.
        if after.wrapping_sub(before) < slots {
            let beyond = position.wrapping_sub(before) & (2 * slots - 1);
            return Some(before.wrapping_add(beyond));
        }
        before = after;
    }
    // Faster than we can look: what it says is right but for a ring.
    Some(before)
}

/// Position of the sender modulo two laps.
fn position(segment: impl AsFd, ring_log2: u32) -> Option<u64> {
    let (segment, slots) = (segment.as_fd(), 1u64 << ring_log2);
    let first = Layout::new(ring_log2).descriptors as u64;
    let lap = |slot: u64| Some(word(segment, first + 8 * slot)? & Descriptor::LAP != 0);
    let newest = lap(0)?;
    // The lap of slot 0 holds up to `low`, and not at `high`.
    let (mut low, mut high) = (0, slots);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if lap(middle)? == newest {
            low = middle;
        } else {
            high = middle;
        }
    }
    // The first lap writes ones over zeroes.
    Some(if newest { high } else { slots + high } & (2 * slots - 1))
}

fn word(segment: impl AsFd, offset: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = rustix::io::pread(segment, &mut bytes, offset);
    (read == Ok(bytes.len())).then_some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;

    const LOG2: u32 = 4;

    fn segment() -> OwnedFd {
        let file = memfd_create("look", MemfdFlags::CLOEXEC).expect("a file");
        ftruncate(&file, 1 << 20).expect("its length");
        file
    }

    fn put(file: &OwnedFd, offset: u64, value: u64) {
        let written = rustix::io::pwrite(file, &value.to_le_bytes(), offset);
        assert_eq!(written, Ok(8));
    }

    /// A sender that wrote `count` descriptors and said so `ago` descriptors before.
    fn send(file: &OwnedFd, count: u64, ago: u64) {
        let slots = 1 << LOG2;
        for at in count.saturating_sub(slots)..count {
            let lap = if (at / slots).is_multiple_of(2) {
                Descriptor::LAP
            } else {
                0
            };
            put(file, 4096 + 8 * (at % slots), 7 << 32 | lap);
        }
        put(file, 8 * SENT_WORD as u64, count.saturating_sub(ago));
    }

    #[test]
    fn every_position_is_told_exactly() {
        for ago in [0, 1, 15, 16] {
            let file = segment();
            assert_eq!(sent(&file, LOG2), Some(0));
            for count in 1..100 {
                send(&file, count, ago);
                assert_eq!(sent(&file, LOG2), Some(count), "{ago} ago");
            }
            send(&file, 1 << 40 | 5, ago);
            assert_eq!(sent(&file, LOG2), Some(1 << 40 | 5));
        }
    }

    #[test]
    fn a_file_that_was_cut_is_no_answer() {
        let file = segment();
        ftruncate(&file, 0).expect("cut");
        assert_eq!(sent(&file, LOG2), None);
        ftruncate(&file, 4096 + 64).expect("cut");
        assert_eq!(sent(&file, LOG2), None);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(words: [u64; 16], told: u64) {
            let file = segment();
            for (at, word) in words.iter().enumerate() {
                put(&file, 4096 + 8 * at as u64, *word);
            }
            put(&file, 8 * SENT_WORD as u64, told);
            let beyond = sent(&file, LOG2).map(|sent| sent.wrapping_sub(told));
            prop_assert!(beyond.is_some_and(|beyond| beyond < 32));
        }
    }
}
