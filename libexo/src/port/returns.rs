//! What a receiver gives back: runs of slots, merged while they follow each other.

#![forbid(unsafe_code)]

use crate::abi::port::Return;
use crate::ring::{Producer, Slots};

/// The ring is divided by this for the longest run that is held back: large enough that a busy
/// receiver writes a line of returns once per half ring, small enough that its sender never
/// starves.
const RUN_DIVISOR: u32 = 16;

/// The writing end of a return ring, with the run that is still growing.
///
/// It can't overflow: each entry returns at least one slot, and the sender sends no more than a
/// ring's worth before it has read returns for them.
#[derive(Debug)]
pub struct Returns<S> {
    ring: Producer<S>,
    first: u32,
    count: u32,
    news: bool,
}

impl<S: Slots> Returns<S> {
    /// Returns over a ring of the same size as the descriptors'.
    pub fn new(ring: Producer<S>) -> Returns<S> {
        Returns {
            ring,
            first: 0,
            count: 0,
            news: false,
        }
    }

    /// Gives back `count` slots from `first` on.
    #[inline]
    pub fn give(&mut self, first: u32, count: u32) {
        let mask = self.ring.capacity() - 1;
        if self.count > 0 && (self.first + self.count) & mask == first {
            self.count += count;
        } else {
            self.flush();
            (self.first, self.count) = (first, count);
        }
        if self.count >= self.ring.capacity() / RUN_DIVISOR {
            self.flush();
        }
    }

    /// Writes the growing run.
    #[inline]
    pub fn flush(&mut self) {
        if self.count > 0 {
            self.ring.push(Return::new(self.first, self.count).0);
            self.count = 0;
            self.news = true;
        }
    }

    /// Whether something was written since this was last asked.
    #[inline]
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}
