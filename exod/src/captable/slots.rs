//! Slots: taken and given back, as steps of a transaction.
//!
//! A slot's generation goes up by one each time it is taken. A slot whose generation is at its last
//! value when it is freed is retired, so that no identity is ever given twice. Free slots are used
//! before ones that were never used, which keeps the file's tail a hole.

#![forbid(unsafe_code)]

use super::intent::{Fields, Tx};
use super::layout::{Array, FREE, GENERATION, NEXT_FREE, RETIRED, STATE, header, record_words};
use super::words::Words;

/// The last generation of a slot.
pub(super) const GENERATION_MAX: u32 = u32::MAX;

impl<W: Words> Tx<'_, W> {
    /// Takes a slot: all zeroes but its new generation and `state`. Nothing when all are taken.
    pub(super) fn take_slot(&mut self, array: Array, state: u64) -> Option<(u32, u32)> {
        let free = self.head(header::free_head(array)) as u32;
        let (index, last) = if free != 0 {
            let next = self.of(array, free, NEXT_FREE);
            self.set_head(header::free_head(array), next);
            (free, self.link(array, free, GENERATION))
        } else {
            let index = self.head(header::used_max(array)) as u32 + 1;
            if index >= self.layout().slots(array) {
                return None;
            }
            self.set_head(header::used_max(array), u64::from(index));
            (index, 0)
        };
        let generation = last + 1;
        self.clear(array, index, generation, state);
        self.add_head(header::count(array), 1);
        Some((index, generation))
    }

    /// Gives a slot back, or retires it.
    pub(super) fn free_slot(&mut self, array: Array, index: u32) {
        let generation = self.link(array, index, GENERATION);
        if generation == GENERATION_MAX {
            self.clear(array, index, generation, RETIRED);
            self.add_head(header::retired(array), 1);
        } else {
            self.clear(array, index, generation, FREE);
            let next = self.head(header::free_head(array));
            self.set(array, index, NEXT_FREE, next);
            self.set_head(header::free_head(array), u64::from(index));
        }
        self.add_head(header::count(array), -1);
    }

    fn clear(&mut self, array: Array, index: u32, generation: u32, state: u64) {
        let record = self.layout().record(array, index);
        self.set_word(
            record,
            STATE.with(GENERATION.with(0, u64::from(generation)), state),
        );
        for word in 1..record_words(array) {
            self.set_word(record + word, 0);
        }
    }
}
