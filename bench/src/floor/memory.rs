//! Memory that two workers share, on hugepages where there are some.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, fstatfs, ftruncate, memfd_create};

/// Bytes of the area: the largest ring of a port of packets of 9,000 bytes, and then some.
pub(super) const BYTES: usize = 8 << 20;
const HUGE_PAGE: i64 = 2 << 20;

pub(super) struct Memory {
    fd: OwnedFd,
    map: MmapRaw,
}

impl Memory {
    pub(super) fn create() -> Result<Memory> {
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
        Self::of(huge).or_else(|_| Self::of(MemfdFlags::CLOEXEC))
    }

    fn of(flags: MemfdFlags) -> Result<Memory> {
        let fd = memfd_create("netbench-floor", flags)?;
        ftruncate(&fd, BYTES as u64)?;
        Self::open(fd)
    }

    pub(super) fn open(fd: OwnedFd) -> Result<Memory> {
        let map = MmapOptions::new().len(BYTES).populate().map_raw(&fd);
        let map = map.context("cannot map the floor's memory")?;
        Ok(Memory { fd, map })
    }

    /// One more descriptor of it, for a worker.
    pub(super) fn share(&self) -> Result<OwnedFd> {
        Ok(self.fd.try_clone()?)
    }

    pub(super) fn page(&self) -> &'static str {
        match fstatfs(&self.fd) {
            Ok(stat) if stat.f_bsize == HUGE_PAGE => "2M",
            _ => "4K",
        }
    }

    /// Byte `offset` of it, which must be inside.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < BYTES);
        // SAFETY: inside the mapping.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }
}
