//! The kernel's pool of hugepages: raised to what the configuration asks, and put back.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Hugepages that exod added to the kernel's pool; dropping it takes them out again.
///
/// Pages in use stay with their users, whoever they are: the kernel turns what it cannot take out
/// into surplus, which goes when its user lets go.
///
/// What was added can be recorded in a file, so that it is put back after a kill too.
#[derive(Debug, Default)]
pub struct Hugepages {
    added: u64,
    record: Option<PathBuf>,
}

const WHAT: &str = "the hugepage pool (needs root; or let the administrator raise it)";
const FRAGMENTED: &str =
    "the hugepage pool: free memory is too fragmented (raise it soon after boot)";

impl Hugepages {
    /// Nothing added yet. What will be is recorded in this file.
    pub fn recorded_in(record: Option<PathBuf>) -> Hugepages {
        Hugepages { added: 0, record }
    }

    /// Makes sure that `frames` hugepages are free and unreserved, adding what is missing.
    ///
    /// # Errors
    /// Where exod may not change the pool, or memory is too fragmented; nothing stays changed.
    pub fn raise(frames: u64) -> Result<Hugepages, Error> {
        let mut raised = Hugepages::default();
        raised.add(Hugepages::missing(frames)?)?;
        if Hugepages::free() < frames {
            return Err(fragmented());
        }
        Ok(raised)
    }

    /// How many hugepages are missing until `frames` are free and unreserved.
    ///
    /// # Errors
    /// Where the kernel has no hugepages of 2 MiB at all.
    pub fn missing(frames: u64) -> Result<u64, Error> {
        let now = Counts::read().map_err(Error::kernel("read", WHAT))?;
        Ok(frames.saturating_sub(now.unreserved()))
    }

    /// Adds as many to the pool. May take seconds, while the kernel moves memory together.
    ///
    /// # Errors
    /// As for [`Hugepages::raise`]; what did come stays, until this is dropped.
    pub fn add(&mut self, pages: u64) -> Result<(), Error> {
        if pages == 0 {
            return Ok(());
        }
        let before = Counts::read().map_err(Error::kernel("read", WHAT))?;
        // First the record: one of too many is put right by the next, and none would be lost.
        self.write_record(self.added + before.surplus + pages);
        // Beyond the surplus too, which the kernel counts first.
        let written = write_size(before.total + pages);
        let after = Counts::read().map_err(Error::kernel("read", WHAT))?;
        self.added += after.persistent().saturating_sub(before.persistent());
        self.write_record(self.added);
        written.map_err(Error::kernel("write", WHAT))?;
        if after.total < before.total + pages {
            return Err(fragmented());
        }
        Ok(())
    }

    /// Takes out as many of those that it added.
    pub fn remove(&mut self, pages: u64) {
        let pages = pages.min(self.added);
        if pages == 0 {
            return;
        }
        let Ok(now) = Counts::read() else { return };
        // There is nobody to tell at the end, and too large a pool harms nothing.
        let _ = write_size(now.persistent().saturating_sub(pages));
        self.added -= pages;
        self.write_record(self.added);
    }

    /// What an exod that was killed had added, by its record; dropping it puts that back.
    pub fn left_behind(record: &Path) -> Option<Hugepages> {
        let added = fs::read_to_string(record).ok()?.trim().parse().ok()?;
        let record = Some(record.to_owned());
        Some(Hugepages { added, record })
    }

    /// Hugepages added.
    pub fn added(&self) -> u64 {
        self.added
    }

    /// Free and unreserved hugepages of 2 MiB on this machine; 0 where it has none at all.
    pub fn free() -> u64 {
        Counts::read().map_or(0, |c| c.unreserved())
    }

    fn write_record(&self, added: u64) {
        let Some(record) = &self.record else { return };
        let written = match added {
            0 => fs::remove_file(record),
            added => fs::write(record, added.to_string()),
        };
        if let Err(error) = written.or_else(|e| match e.kind() {
            io::ErrorKind::NotFound if added == 0 => Ok(()),
            _ => Err(e),
        }) {
            let record = record.display();
            tracing::warn!(%error, %record, "a kill of exod would leave hugepages behind");
        }
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        self.remove(self.added);
    }
}

fn fragmented() -> Error {
    Error::Kernel {
        call: "write",
        what: FRAGMENTED,
        source: io::ErrorKind::OutOfMemory.into(),
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
