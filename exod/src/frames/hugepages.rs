//! The kernel's pool of hugepages: raised to what the configuration asks, and put back.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use super::Error;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Hugepages that exod added to the kernel's pool; dropping it takes them out again.
///
/// Pages in use stay with their users, whoever they are: the kernel turns what it cannot take out
/// into surplus, which goes when its user lets go.
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
        const WHAT: &str = "the hugepage pool (needs root; or let the administrator raise it)";
        let before = Counts::read().map_err(Error::kernel("read", WHAT))?;
        let missing = frames.saturating_sub(before.unreserved());
        if missing == 0 {
            return Ok(Hugepages { added: 0 });
        }
        write_size(before.total + missing).map_err(Error::kernel("write", WHAT))?;
        let after = Counts::read().map_err(Error::kernel("read", WHAT))?;
        // From here on dropping it puts back what did come.
        let raised = Hugepages {
            added: after.persistent().saturating_sub(before.persistent()),
        };
        if after.unreserved() < frames {
            return Err(Error::Kernel {
                call: "write",
                what: "the hugepage pool: free memory is too fragmented (raise it soon after boot)",
                source: io::ErrorKind::OutOfMemory.into(),
            });
        }
        Ok(raised)
    }

    /// Hugepages added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Free and unreserved hugepages of 2 MiB on this machine; 0 where it has none at all.
    pub fn free() -> u64 {
        Counts::read().map_or(0, |c| c.unreserved())
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        let Ok(now) = Counts::read() else { return };
        // There is nobody left to tell, and too large a pool harms nothing.
        let _ = write_size(now.persistent().saturating_sub(self.added));
    }
}

/// The kernel's own counts.
struct Counts {
    total: u64,
    free: u64,
    reserved: u64,
    surplus: u64,
}

impl Counts {
    fn read() -> io::Result<Counts> {
        Ok(Counts {
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
            reserved: number("resv_hugepages")?,
            surplus: number("surplus_hugepages")?,
        })
    }

    /// The size that was set, whatever is there beyond it.
    fn persistent(&self) -> u64 {
        self.total.saturating_sub(self.surplus)
    }

    /// Free pages that no mapping or mount has been promised.
    fn unreserved(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

fn number(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new(POOL).join(name))?;
    text.trim().parse().map_err(io::Error::other)
}

fn write_size(pages: u64) -> io::Result<()> {
    fs::write(Path::new(POOL).join("nr_hugepages"), pages.to_string())
}
