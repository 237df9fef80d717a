//! The words under the table: a sealed memfd that exod alone maps.
//!
//! Stores are ordered: the compiler may not move one before an earlier one, and the memory of a
//! killed process is in program order. That is all that the intent record needs. It is no
//! protection against losing the machine's power, which also ends whatever the table speaks of.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, Mode, SealFlags};

use super::types::OpenError;

/// An array of words that only this process writes.
pub trait Words {
    /// How many.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one. Panics at an index that is not below [`Words::len`].
    fn load(&self, index: usize) -> u64;

    /// Writes one, after every store before it. Panics like [`Words::load`].
    fn store(&self, index: usize, value: u64);
}

/// Seals under which a mapping can neither lose its pages nor be surprised by new ones.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A sealed memfd and its mapping.
#[derive(Debug)]
pub struct Mapping {
    file: File,
    map: MmapRaw,
}

impl Mapping {
    /// A new one of `words` zeroes, as a hole: pages come with the first store.
    pub(super) fn create(words: usize) -> Result<Mapping, OpenError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("exod-captable", flags).map_err(io::Error::from)?;
        // A memfd begins with mode 0777: without this, anyone who sees it in /proc could open it.
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        rustix::fs::ftruncate(&fd, words as u64 * 8).map_err(io::Error::from)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(io::Error::from)?;
        Self::map(fd, words)
    }

    /// Takes over one that an earlier exod made; refuses a file that could shrink under us.
    pub(super) fn adopt(fd: OwnedFd) -> Result<Mapping, OpenError> {
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|_| OpenError::NotATable("it is not a memory file"))?;
        if !seals.contains(SEALS) {
            return Err(OpenError::NotATable("it is not sealed"));
        }
        let bytes = rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_size;
        match usize::try_from(bytes) {
            Ok(bytes) if bytes > 0 && bytes % 8 == 0 => Self::map(fd, bytes / 8),
            _ => Err(OpenError::NotATable("its size is not a number of words")),
        }
    }

    fn map(fd: OwnedFd, words: usize) -> Result<Mapping, OpenError> {
        let file = File::from(fd);
        let map = MmapOptions::new().len(words * 8).map_raw(&file)?;
        Ok(Mapping { file, map })
    }

    fn words(&self) -> &[AtomicU64] {
        let first = self.map.as_ptr().cast::<AtomicU64>();
        // SAFETY: a mapping begins on a page, so it is aligned for words; it is readable, writable
        // and exactly `map.len()` bytes long for as long as `self`; the seals keep every page in
        // the file; and atomics may be shared with whoever else maps it.
        unsafe { std::slice::from_raw_parts(first, self.map.len() / 8) }
    }
}

impl Words for Mapping {
    fn len(&self) -> usize {
        self.words().len()
    }

    fn load(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::Acquire)
    }

    fn store(&self, index: usize, value: u64) {
        self.words()[index].store(value, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
