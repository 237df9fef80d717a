//! The status table, mapped read-only: what exod says about each handle, for the price of a load.
//!
//! exod alone writes it, at any time; so its words are only ever read as atomics. It is information
//! and never protection. A word whose generation is not the handle's reads as empty, so
//! `contains(LIVE)` is the whole check.
//!
//! Taken memory shows in one of two ways: its pages are gone, and the guard counts whoever touches
//! them; or, where only its contents can be taken, it silently reads as zeroes, which exod counted
//! before. [`StatusTable::losses`] is both in one number: whoever read such memory compares it with
//! its value from before, after the last access and before using a byte.

use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::abi::status::{
    EPOCH_WORD, HEADER_WORDS, LOSS_COUNTER_WORD, Status, read, split_handle, word_index,
};
use crate::{Error, Result, guard};

/// One session's status table.
#[derive(Clone, Debug)]
pub struct StatusTable {
    words: NonNull<AtomicU64>,
    count: usize,
    /// Keeps the words mapped.
    map: Arc<MmapRaw>,
}

/// The status word of one handle: address resolved once, table kept mapped.
#[derive(Clone, Debug)]
pub struct StatusWord {
    word: NonNull<AtomicU64>,
    generation: u32,
    _map: Arc<MmapRaw>,
}

// SAFETY: the words are atomics in a mapping that the value itself keeps, and MmapRaw is Send.
unsafe impl Send for StatusTable {}
// SAFETY: sharing allows atomic loads and nothing else.
unsafe impl Sync for StatusTable {}
// SAFETY: as for the table.
unsafe impl Send for StatusWord {}
// SAFETY: as for the table.
unsafe impl Sync for StatusWord {}

impl StatusTable {
    /// Maps `bytes` of `file`, which must be that long: a multiple of 8, and more than the header.
    pub fn map(file: impl AsFd, bytes: usize) -> Result<StatusTable> {
        let file = file.as_fd();
        let count = bytes / size_of::<u64>();
        let have = rustix::fs::fstat(file)
            .map_err(Error::system("fstat"))?
            .st_size;
        let short = count <= HEADER_WORDS || !bytes.is_multiple_of(size_of::<u64>());
        if short || usize::try_from(have).is_ok_and(|have| have < bytes) {
            return Err(Error::WrongSize {
                what: "the status table",
                got: bytes as u64,
                limit: have as u64,
            });
        }
        let map = MmapOptions::new()
            .len(bytes)
            .map_raw_read_only(file.as_raw_fd())
            .map_err(Error::system("mmap of the status table"))?;
        let words = NonNull::new(map.as_mut_ptr().cast()).ok_or(Error::Revoked)?;
        Ok(StatusTable {
            words,
            count,
            map: Arc::new(map),
        })
    }

    /// Status of a handle; empty when it is stale or out of the table.
    #[inline]
    pub fn status(&self, handle: u64) -> Status {
        let (index, generation) = split_handle(handle);
        match self.at(word_index(index)) {
            Some(word) => decode(load(word), generation).0,
            None => Status::empty(),
        }
    }

    /// Handles that have a word.
    pub fn handles(&self) -> usize {
        self.count - HEADER_WORDS
    }

    /// The word of a handle, to keep; none when it is out of the table.
    pub fn word(&self, handle: u64) -> Option<StatusWord> {
        let (index, generation) = split_handle(handle);
        Some(StatusWord {
            word: self.at(word_index(index))?,
            generation,
            _map: Arc::clone(&self.map),
        })
    }

    /// Counts every loss that exod inflicted on this domain. What was read before this call was
    /// read before the counter.
    #[inline]
    pub fn loss_counter(&self) -> u64 {
        fence(Ordering::Acquire);
        self.header(LOSS_COUNTER_WORD)
    }

    /// Losses told by exod and losses met by this process, in one number that only rises: when it
    /// is what it was, everything read in between was data.
    #[inline]
    pub fn losses(&self) -> u64 {
        self.loss_counter().wrapping_add(guard::losses())
    }

    /// Changes when exod was started anew.
    pub fn epoch(&self) -> u64 {
        self.header(EPOCH_WORD)
    }

    #[inline]
    fn header(&self, word: usize) -> u64 {
        self.at(word).map_or(0, load)
    }

    #[inline]
    fn at(&self, index: usize) -> Option<NonNull<AtomicU64>> {
        // SAFETY: the index is below the number of words that are mapped.
        (index < self.count).then(|| unsafe { self.words.add(index) })
    }
}

impl StatusWord {
    /// Status of the handle: one load and a compare. Empty when it is not live any more.
    #[inline]
    pub fn load(&self) -> Status {
        decode(load(self.word), self.generation).0
    }

    /// Status, and the milliseconds until the capability is taken by force when it is asked back.
    pub fn load_deadline(&self) -> (Status, u16) {
        decode(load(self.word), self.generation)
    }
}

#[inline]
fn decode(word: u64, generation: u32) -> (Status, u16) {
    read(word, generation).unwrap_or((Status::empty(), 0))
}

/// Reads a word that exod may be writing.
#[inline]
fn load(word: NonNull<AtomicU64>) -> u64 {
    // SAFETY: only made by `at`, so it lies in the mapping that the caller keeps, is aligned (a
    // mapping begins on a page), and is only loaded; exod stores whole words.
    unsafe { word.as_ref() }.load(Ordering::Acquire)
}
