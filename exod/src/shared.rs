//! Words of 64 bits that exod writes and others map read-only: status tables, counters.
//!
//! The file is sealed: nobody can shrink or grow it under exod, and nobody can make a writable
//! mapping of it any more, not even by opening it again as the same user; the only writable mapping
//! is the one that exod made before. The descriptor that leaves exod is opened for reading besides.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create, open,
};

/// See the module.
#[derive(Debug)]
pub struct SharedWords {
    map: MmapRaw,
    reader: Arc<OwnedFd>,
    words: usize,
}

impl SharedWords {
    /// So many words of zero. The name shows in `/proc`.
    pub fn create(name: &str, words: usize) -> io::Result<SharedWords> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(name, flags)?;
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
        Ok(SharedWords {
            map,
            reader: Arc::new(reader),
            words,
        })
    }

    /// What a client gets.
    pub fn reader(&self) -> Arc<OwnedFd> {
        self.reader.clone()
    }

    /// Length of the file.
    pub fn bytes(&self) -> usize {
        self.words * size_of::<u64>()
    }

    /// One word.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "a word of the file");
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
        let words = SharedWords::create("exo-test", 100).expect("a file");
        let reader = words.reader();
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
}
