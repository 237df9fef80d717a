//! A ring between two domains that moves as few cache lines as it can.
//!
//! One side writes the slots, the other only reads them. Each 8-byte entry carries one *lap* bit
//! that flips every time the ring wraps: an entry is new exactly when its lap bit is the one that
//! the reader expects next. So the reader polls the very line that brings the data, eight entries
//! at a time, and no index is shared. (NVMe completion queues and packed virtqueues do the same.)
//!
//! Nothing tells the writer here that a slot was read: that knowledge comes back by another way (a
//! port's returns), and the writer must not lap its reader. A reader that faces a lying writer sees
//! wrong entries and no more: it reads each slot once, and its position is its own.
//!
//! Positions are free-running `u32`s; the ring's size divides 2^32, so laps stay right when they
//! wrap.

#![forbid(unsafe_code)]

use crate::abi::port::Descriptor;

/// Memory of a ring: a power of two of words, written by one side and read by the other. The load
/// acquires, the store releases.
pub trait Slots {
    /// How many slots, a power of two.
    fn len(&self) -> usize;
    /// Reads a slot; what was stored before the value seen is visible afterwards.
    fn load(&self, index: usize) -> u64;
    /// Reads a slot without ordering what is read afterwards; [`Slots::settle`] does that for all
    /// that were read so, which leaves the compiler free to keep its registers meanwhile.
    fn glance(&self, index: usize) -> u64 {
        self.load(index)
    }
    /// What was stored before the values that were glanced at is visible afterwards.
    fn settle(&self) {}
    /// Writes a slot after everything that was stored before.
    fn store(&self, index: usize, value: u64);
    /// Whether there are no slots: never.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The lap bit that belongs to a position, at its place in an entry. The first lap writes ones,
/// since memory begins as zeroes.
#[inline]
fn lap_of(position: u32, shift: u32) -> u64 {
    !(u64::from(position) << shift) & Descriptor::LAP
}

/// How far a position is shifted so that the bit that counts laps lies at the lap bit.
fn lap_shift(slots: &impl Slots) -> u32 {
    assert!(
        slots.len().is_power_of_two(),
        "a ring has a power of two of slots"
    );
    Descriptor::LAP_BIT - slots.len().trailing_zeros()
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<S> {
    slots: S,
    mask: u32,
    lap_shift: u32,
    next: u32,
}

impl<S: Slots> Producer<S> {
    /// A producer at position zero of zeroed slots.
    pub fn new(slots: S) -> Producer<S> {
        Producer::at(slots, 0)
    }

    /// A producer at a position, for tests of wrap-around.
    pub(crate) fn at(slots: S, next: u32) -> Producer<S> {
        let (lap_shift, mask) = (lap_shift(&slots), slots.len() as u32 - 1);
        Producer {
            slots,
            mask,
            lap_shift,
            next,
        }
    }

    /// Slots in the ring.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.mask + 1
    }

    /// The slot that is written `ahead` entries from now.
    #[inline]
    pub fn slot(&self, ahead: u32) -> usize {
        (self.next.wrapping_add(ahead) & self.mask) as usize
    }

    /// Writes one entry; its lap bit is set here. The caller knows that the slot was read.
    #[inline]
    pub fn push(&mut self, entry: u64) {
        let lap = lap_of(self.next, self.lap_shift);
        let entry = entry & !Descriptor::LAP | lap;
        self.slots.store(self.slot(0), entry);
        self.next = self.next.wrapping_add(1);
    }

    /// Writes `count` entries, each made by `entry` from its number.
    #[inline]
    pub fn push_burst(&mut self, count: u32, mut entry: impl FnMut(u32) -> u64) {
        let next = self.next;
        for k in 0..count {
            let position = next.wrapping_add(k);
            let word = entry(k) & !Descriptor::LAP | lap_of(position, self.lap_shift);
            self.slots.store((position & self.mask) as usize, word);
        }
        self.next = next.wrapping_add(count);
    }

    /// Position of the next entry: free-running, the slot is its low bits.
    #[inline]
    pub fn position(&self) -> u32 {
        self.next
    }

    /// The slots themselves.
    pub fn slots(&self) -> &S {
        &self.slots
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer<S> {
    slots: S,
    mask: u32,
    lap_shift: u32,
    next: u32,
}

impl<S: Slots> Consumer<S> {
    /// A consumer at position zero.
    pub fn new(slots: S) -> Consumer<S> {
        Consumer::at(slots, 0)
    }

    /// A consumer at a position, for tests of wrap-around.
    pub(crate) fn at(slots: S, next: u32) -> Consumer<S> {
        let (lap_shift, mask) = (lap_shift(&slots), slots.len() as u32 - 1);
        Consumer {
            slots,
            mask,
            lap_shift,
            next,
        }
    }

    /// Slots in the ring.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.mask + 1
    }

    /// The slot that is read `ahead` entries from now.
    #[inline]
    pub fn slot(&self, ahead: u32) -> usize {
        (self.next.wrapping_add(ahead) & self.mask) as usize
    }

    /// The entry `ahead` of the next one, if it has been written. Read it once: the writer may lie.
    /// Less than a lap ahead: further on, what the last lap left would look new.
    #[inline]
    pub fn peek(&self, ahead: u32) -> Option<u64> {
        let position = self.next.wrapping_add(ahead);
        let entry = self.slots.load((position & self.mask) as usize);
        ((entry ^ lap_of(position, self.lap_shift)) & Descriptor::LAP == 0).then_some(entry)
    }

    /// Looks at entries that have been written, from `ahead` of the next one on and less than
    /// `max`, and hands each to `f`, which says whether to go on. Each is read once. What they
    /// stand for may be read after this.
    #[inline]
    pub fn scan(&self, ahead: u32, max: u32, mut f: impl FnMut(u32, u64) -> bool) {
        let max = max.min(self.mask + 1);
        let mut at = ahead;
        while at < max {
            let fresh = self.skim(at, max - at, |ahead, entry| {
                entry & Descriptor::LAP == 0 && f(ahead, entry)
            });
            at += fresh;
            if at & self.mask != self.next.wrapping_neg() & self.mask || fresh == 0 {
                break;
            }
        }
        self.slots.settle();
    }

    /// Looks at up to `max` entries in a row, as far as the ring's end, and hands each to `f` with
    /// its lap bit cleared when it was written and set when it was not: so `f`, which says whether
    /// to go on, can test that bit with others at once. How many it went over. [`Consumer::scan`]
    /// settles what both have seen.
    #[inline(always)]
    pub fn skim(&self, ahead: u32, max: u32, mut f: impl FnMut(u32, u64) -> bool) -> u32 {
        let position = self.next.wrapping_add(ahead);
        let first = position & self.mask;
        let lap = lap_of(position, self.lap_shift);
        let count = max.min(self.mask + 1 - first);
        for k in 0..count {
            if !f(ahead + k, self.slots.glance((first + k) as usize) ^ lap) {
                return k;
            }
        }
        count
    }

    /// Steps over `count` entries that were peeked.
    #[inline]
    pub fn advance(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
