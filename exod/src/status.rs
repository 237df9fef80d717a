//! A session's status table, from exod's side: written here, read by the client.
//!
//! Words are plain 64-bit stores, each with release order, so a client that sees a word sees
//! everything that exod stored before it: the loss counter is raised before a word says `LOST`.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libexo::abi::status::{self, EPOCH_WORD, HEADER_WORDS, LOSS_COUNTER_WORD, Status};

use crate::shared::SharedWords;

/// One session's table.
#[derive(Debug)]
pub struct StatusTable(SharedWords);

impl StatusTable {
    /// A table with a word for each of `slots` capability slots.
    pub fn create(slots: u32, epoch: u64) -> io::Result<StatusTable> {
        let words = SharedWords::create("exo-status", HEADER_WORDS + slots as usize)?;
        let table = StatusTable(words);
        table.store(EPOCH_WORD, epoch);
        Ok(table)
    }

    /// What the client gets.
    pub fn reader(&self) -> Arc<OwnedFd> {
        self.0.reader()
    }

    /// Length of the file.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Says how a capability is.
    pub fn set(&self, handle: u64, status: Status, deadline_ms: u16) {
        let (index, generation) = status::split_handle(handle);
        let word = status::word(generation, deadline_ms, status);
        self.store(status::word_index(index), word);
    }

    /// Counts one more loss. Comes before the word of what is lost, and before it is broken.
    pub fn count_loss(&self) {
        let word = self.0.word(LOSS_COUNTER_WORD);
        word.fetch_add(1, Ordering::Release);
    }

    fn store(&self, index: usize, value: u64) {
        self.0.word(index).store(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_words_and_losses() {
        let table = StatusTable::create(16, 5).expect("a table");
        let handle = status::handle(3, 9);
        table.count_loss();
        table.set(handle, Status::LOST, 250);
        let mut bytes = [0; 8 * (HEADER_WORDS + 16)];
        rustix::io::pread(&*table.reader(), &mut bytes, 0).expect("readable");
        let word =
            |n: usize| u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().expect("eight bytes"));
        assert_eq!(word(LOSS_COUNTER_WORD), 1);
        assert_eq!(word(EPOCH_WORD), 5);
        assert_eq!(
            status::read(word(status::word_index(3)), 9),
            Some((Status::LOST, 250))
        );
    }
}
