//! Slots and lists: the two structures that all records share, as steps of a transaction.
//!
//! A slot's generation goes up by one each time it is taken. A slot whose generation is at its last
//! value when it is freed is retired, so that no identity is ever given twice. Free slots are used
//! before ones that were never used, which keeps the file's tail a hole.

#![forbid(unsafe_code)]

use super::intent::{Fields, Tx};
use super::layout::{
    Array, FREE, GENERATION, List, NEXT_FREE, RETIRED, STATE, header, record_words,
};
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

    /// Puts `member` first in `owner`'s list.
    pub(super) fn push_front(&mut self, list: List, owner: u32, member: u32) {
        let first = self.link(list.owners, owner, list.head);
        self.set_link(list.members, member, list.owner, owner);
        self.set_link(list.members, member, list.next, first);
        self.set_link(list.members, member, list.prev, 0);
        if first != 0 {
            self.set_link(list.members, first, list.prev, member);
        }
        self.set_link(list.owners, owner, list.head, member);
        if let Some(count) = list.count {
            self.add(list.owners, owner, count, 1);
        }
    }

    /// Takes `member` out of the list that it is in, and gives that list's owner.
    pub(super) fn unlink(&mut self, list: List, member: u32) -> u32 {
        let owner = self.link(list.members, member, list.owner);
        let next = self.link(list.members, member, list.next);
        let prev = self.link(list.members, member, list.prev);
        self.join(list, owner, prev, next);
        for field in [list.owner, list.next, list.prev] {
            self.set_link(list.members, member, field, 0);
        }
        if let Some(count) = list.count {
            self.add(list.owners, owner, count, -1);
        }
        owner
    }

    /// Puts `new`, which is in no list, in `old`'s place.
    pub(super) fn replace(&mut self, list: List, old: u32, new: u32) {
        let owner = self.link(list.members, old, list.owner);
        let next = self.link(list.members, old, list.next);
        let prev = self.link(list.members, old, list.prev);
        self.join(list, owner, prev, new);
        self.join(list, owner, new, next);
        self.set_link(list.members, new, list.owner, owner);
        for field in [list.owner, list.next, list.prev] {
            self.set_link(list.members, old, field, 0);
        }
    }

    /// Makes `a` and `b` neighbours; zero stands for the list's end on that side.
    fn join(&mut self, list: List, owner: u32, a: u32, b: u32) {
        if a == 0 {
            self.set_link(list.owners, owner, list.head, b);
        } else {
            self.set_link(list.members, a, list.next, b);
        }
        if b != 0 {
            self.set_link(list.members, b, list.prev, a);
        }
    }
}
