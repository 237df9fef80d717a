//! The kernel's pool of hugepages: raised to what the configuration asks, and put back.
#![forbid(unsafe_code)]

use super::Error;

/// Hugepages that exod added to the kernel's pool; dropping it takes them out again, never below
/// what others use by then. Drop it after every unit.
#[derive(Debug)]
pub struct Hugepages {
    added: u64,
}

impl Hugepages {
    /// Makes sure that `frames` hugepages are free and unreserved, adding what is missing.
    ///
    /// # Errors
    /// Where exod may not change the pool, or memory is too fragmented; nothing stays changed.
    pub fn raise(frames: u64) -> Result<Hugepages, Error> {
        let _ = frames;
        todo!()
    }

    /// Hugepages added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Free and unreserved hugepages of 2 MiB on this machine.
    pub fn free() -> u64 {
        todo!()
    }
}
