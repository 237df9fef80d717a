//! A session's status table, from exod's side: written here, read by the client.
//!
//! The file is sealed: nobody can shrink or grow it under exod, and nobody can make a writable
//! mapping of it any more, not even by opening it again as the same user; the only writable mapping
//! is the one that exod made before. The descriptor that leaves exod is opened for reading besides.
//!
//! Words are plain 64-bit stores, each with release order, so a client that sees a word sees
//! everything that exod stored before it: the loss counter is raised before a word says `LOST`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libexo::abi::status::{self, EPOCH_WORD, HEADER_WORDS, LOSS_COUNTER_WORD, Status};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create, open,
};

/// One session's table.
#[derive(Debug)]
pub struct StatusTable {
    map: MmapRaw,
    reader: Arc<OwnedFd>,
    words: usize,
}

impl StatusTable {
    /// A table with a word for each of `slots` capability slots.
    pub fn create(slots: u32, epoch: u64) -> io::Result<StatusTable> {
        let words = HEADER_WORDS + slots as usize;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("exo-status", flags)?;
        ftruncate(&file, (words * size_of::<u64>()) as u64)?;
        let map = MmapOptions::new()
            .len(words * size_of::<u64>())
            .map_raw(&file)?;
        fchmod(&file, Mode::RUSR)?;
        fcntl_add_seals(
            &file,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let reader = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let table = StatusTable {
            map,
            reader: Arc::new(reader),
            words,
        };
        table.store(EPOCH_WORD, epoch);
        Ok(table)
    }

    /// What the client gets.
    pub fn reader(&self) -> Arc<OwnedFd> {
        self.reader.clone()
    }

    /// Length of the file.
    pub fn bytes(&self) -> usize {
        self.words * size_of::<u64>()
    }

    /// Says how a capability is.
    pub fn set(&self, handle: u64, status: Status, deadline_ms: u16) {
        let (index, generation) = status::split_handle(handle);
        let word = status::word(generation, deadline_ms, status);
        self.store(status::word_index(index), word);
    }

    /// Counts one more loss. Comes before the word of what is lost, and before it is broken.
    pub fn count_loss(&self) {
        self.word(LOSS_COUNTER_WORD).fetch_add(1, Ordering::Release);
    }

    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "a handle's slot is in its table");
        let words = self.map.as_mut_ptr().cast::<u64>();
        // SAFETY: the mapping lives as long as `self`, has `words` aligned words, and its file can
        // neither shrink nor be written by anybody else; all access is atomic.
        unsafe { AtomicU64::from_ptr(words.add(index)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::mm::{MapFlags, ProtFlags};

    /// Whether `fd` can be mapped with this protection.
    fn maps(fd: &OwnedFd, prot: ProtFlags) -> bool {
        // SAFETY: a fresh mapping at an address of the kernel's choice; no reference is made.
        let mapped =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, prot, MapFlags::SHARED, fd, 0) };
        // SAFETY: unmaps exactly what was mapped above, and nothing refers to it.
        mapped.is_ok_and(|at| unsafe { rustix::mm::munmap(at, 4096) }.is_ok())
    }

    #[test]
    fn nobody_else_writes_shrinks_or_punches_it() {
        let table = StatusTable::create(100, 5).expect("a table");
        let reader = table.reader();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let reopened = open(path, OFlags::RDWR, Mode::empty());
        for fd in [Ok(&*reader), reopened.as_ref()].into_iter().flatten() {
            assert!(maps(fd, ProtFlags::READ));
            assert!(!maps(fd, ProtFlags::READ | ProtFlags::WRITE));
            assert!(ftruncate(fd, 0).is_err());
            assert!(rustix::io::pwrite(fd, &[1], 0).is_err());
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            assert!(fallocate(fd, punch, 0, 4096).is_err());
        }
    }

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
