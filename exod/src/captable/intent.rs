//! Transactions: a change is collected, recorded as an intent, committed, applied.
//!
//! A [`Tx`] reads through its own pending writes. Dropped, it has changed nothing, so a refusal
//! half-way needs no undoing. [`Tx::commit`] stores
//!
//! 1. the pairs (word, value) into the intent area: invisible, since the commit word is zero;
//! 2. the commit word, with the number of pairs: from here on the change has happened;
//! 3. the values themselves;
//! 4. zero into the commit word.
//!
//! Whoever finds the commit word set does 3 and 4 again, which changes nothing that was done.

#![forbid(unsafe_code)]

use super::layout::{
    ARRAYS_FIRST, Array, COMMIT_WORD, Field, INTENT_FIRST, Layout, TX_WRITES_MAX, header,
};
use super::words::Words;

/// High half of a commit word; the low half is the number of pairs.
const COMMITTED: u64 = 0x6578_6f21 << 32;

/// Reading fields, from the table as it is or as a transaction would make it.
pub(super) trait Fields {
    fn word(&self, index: usize) -> u64;

    fn layout(&self) -> &Layout;

    fn get(&self, record: usize, field: Field) -> u64 {
        field.of(self.word(record + field.word))
    }

    fn of(&self, array: Array, index: u32, field: Field) -> u64 {
        self.get(self.layout().record(array, index), field)
    }

    /// A field that holds a slot, a count or a generation: 32 bits.
    fn link(&self, array: Array, index: u32, field: Field) -> u32 {
        self.of(array, index, field) as u32
    }

    fn head(&self, field: Field) -> u64 {
        self.get(0, field)
    }
}

/// The table as it is.
pub(super) struct Now<'a, W> {
    pub(super) words: &'a W,
    pub(super) layout: &'a Layout,
}

impl<W: Words> Fields for Now<'_, W> {
    fn word(&self, index: usize) -> u64 {
        self.words.load(index)
    }

    fn layout(&self) -> &Layout {
        self.layout
    }
}

/// A change that is being collected.
pub(super) struct Tx<'a, W> {
    words: &'a W,
    layout: &'a Layout,
    writes: &'a mut Vec<(usize, u64)>,
}

impl<W: Words> Fields for Tx<'_, W> {
    fn word(&self, index: usize) -> u64 {
        let pending = self.writes.iter().find(|write| write.0 == index);
        pending.map_or_else(|| self.words.load(index), |write| write.1)
    }

    fn layout(&self) -> &Layout {
        self.layout
    }
}

impl<'a, W: Words> Tx<'a, W> {
    /// `writes` is scratch space that is kept between transactions.
    pub(super) fn new(
        words: &'a W,
        layout: &'a Layout,
        writes: &'a mut Vec<(usize, u64)>,
    ) -> Tx<'a, W> {
        writes.clear();
        Tx {
            words,
            layout,
            writes,
        }
    }

    pub(super) fn set_word(&mut self, index: usize, value: u64) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.0 == index) {
            write.1 = value;
        } else if self.words.load(index) != value {
            self.writes.push((index, value));
        }
    }

    pub(super) fn put(&mut self, record: usize, field: Field, value: u64) {
        let index = record + field.word;
        self.set_word(index, field.with(self.word(index), value));
    }

    pub(super) fn set(&mut self, array: Array, index: u32, field: Field, value: u64) {
        self.put(self.layout.record(array, index), field, value);
    }

    pub(super) fn set_link(&mut self, array: Array, index: u32, field: Field, value: u32) {
        self.set(array, index, field, u64::from(value));
    }

    pub(super) fn set_head(&mut self, field: Field, value: u64) {
        self.put(0, field, value);
    }

    /// Adds to a counter of a record.
    pub(super) fn add(&mut self, array: Array, index: u32, field: Field, by: i64) {
        let value = self.of(array, index, field).wrapping_add_signed(by);
        self.set(array, index, field, value);
    }

    /// Adds to a counter of the header.
    pub(super) fn add_head(&mut self, field: Field, by: i64) {
        self.set_head(field, self.head(field).wrapping_add_signed(by));
    }

    /// Makes the change.
    pub(super) fn commit(self) {
        let writes = &self.writes;
        // Holds for every operation by construction, and the tests measure it.
        assert!(
            writes.len() <= TX_WRITES_MAX,
            "a transaction outgrew the intent area"
        );
        if let [(index, value)] = writes[..] {
            // A single word changes at once: no intent is needed.
            self.words.store(index, value);
            return;
        }
        for (i, (index, value)) in writes.iter().enumerate() {
            self.words.store(INTENT_FIRST + 2 * i, *index as u64);
            self.words.store(INTENT_FIRST + 2 * i + 1, *value);
        }
        self.words
            .store(COMMIT_WORD, COMMITTED | writes.len() as u64);
        for (index, value) in writes.iter() {
            self.words.store(*index, *value);
        }
        self.words.store(COMMIT_WORD, 0);
    }
}

/// Finishes what a crash left committed. Says why, when the intent area cannot be one of ours.
pub(super) fn replay<W: Words>(words: &W, layout: &Layout) -> Result<(), &'static str> {
    let commit = words.load(COMMIT_WORD);
    if commit == 0 {
        return Ok(());
    }
    let count = (commit & u64::from(u32::MAX)) as usize;
    if commit & !u64::from(u32::MAX) != COMMITTED || count > TX_WRITES_MAX {
        return Err("its commit word is no commit word");
    }
    let pair = |i: usize| {
        (
            words.load(INTENT_FIRST + 2 * i),
            words.load(INTENT_FIRST + 2 * i + 1),
        )
    };
    let mutable = |index: u64| {
        (header::FIRST_MUTABLE as u64..header::WORDS as u64).contains(&index)
            || (ARRAYS_FIRST as u64..layout.total_words as u64).contains(&index)
    };
    if !(0..count).all(|i| mutable(pair(i).0)) {
        return Err("its intent writes outside of the arrays");
    }
    for (index, value) in (0..count).map(pair) {
        words.store(index as usize, value);
    }
    words.store(COMMIT_WORD, 0);
    Ok(())
}
