//! The shared page that tells workers which phase a run is in.
//!
//! The parent alone writes it, a few times per run; workers read it once per burst. Both map the
//! same memfd, which is inherited as a descriptor.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// One page: more than the one word needs, and the least that can be mapped.
const BYTES: usize = 4096;

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Both sides run, nobody counts.
    WarmUp = 0,
    /// Both sides count.
    Window = 1,
    /// Both sides stop and report.
    Stop = 2,
}

/// The mapped page and its descriptor.
pub struct Control {
    page: MmapRaw,
    fd: OwnedFd,
}

impl Control {
    /// A new page, in the warm-up.
    pub fn create() -> Result<Self> {
        let fd = memfd_create("netbench-control", MemfdFlags::CLOEXEC)
            .context("memfd_create for the control page")?;
        ftruncate(&fd, BYTES as u64)?;
        Self::open(fd)
    }

    /// The page behind an inherited descriptor.
    pub fn open(fd: OwnedFd) -> Result<Self> {
        let file = File::from(fd);
        let page = MmapOptions::new()
            .len(BYTES)
            .map_raw(&file)
            .context("map the control page")?;
        Ok(Self {
            page,
            fd: file.into(),
        })
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, 4096 bytes long, lives as long as `self`, and is
        // only ever accessed as this atomic, by every process that has it. Any bit pattern is a
        // valid u32.
        unsafe { AtomicU32::from_ptr(self.page.as_mut_ptr().cast()) }
    }

    /// The current phase: one load.
    #[inline(always)]
    pub fn phase(&self) -> Phase {
        match self.word().load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Window,
            _ => Phase::Stop,
        }
    }

    /// Starts a phase.
    pub fn set(&self, phase: Phase) {
        self.word().store(phase as u32, Ordering::Relaxed);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
