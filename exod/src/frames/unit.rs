//! A unit of frames, and what is left of it after revocation.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Error, PageKind, Protection};

/// One file of one or more zeroed frames, owned by exod.
///
/// Dropping it closes exod's descriptors and breaks nothing: use it so only for a unit that nobody
/// else has seen.
#[derive(Debug)]
pub struct Unit {
    client: OwnedFd,
}

impl Unit {
    /// Frames in it.
    pub fn frames(&self) -> u32 {
        todo!()
    }

    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        todo!()
    }

    /// Pages behind it.
    pub fn page_kind(&self) -> PageKind {
        todo!()
    }

    /// What protects those who share it.
    pub fn protection(&self) -> Protection {
        todo!()
    }

    /// For the one client that may write: readable and writable, without the right to truncate.
    pub fn client_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// For those who may only read.
    pub fn peer_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// Breaks every mapping, by whomever, now. Blocks for some 10 to 30 us: run it as a job.
    ///
    /// Never fails: should the kernel refuse, [`Revoked::returned`] tries again and says so.
    pub fn revoke(self) -> Revoked {
        todo!()
    }
}

/// A unit that was taken back. Keep it, and charge its frames to the domain that had it, until
/// [`returned`](Revoked::returned) is true.
#[derive(Debug)]
pub struct Revoked {}

impl Revoked {
    /// Frames that are taken back or being waited for.
    pub fn frames(&self) -> u32 {
        todo!()
    }

    /// Pages behind it.
    pub fn page_kind(&self) -> PageKind {
        todo!()
    }

    /// Whether every frame is back with the kernel: nobody has the file open or mapped, and
    /// nothing pins its pages. False means *pinned*: ask again later, or end the holder. A few
    /// system calls: run it as a job. Once true, always true.
    ///
    /// # Errors
    /// The kernel refused to break the mappings, or to tell.
    pub fn returned(&mut self) -> Result<bool, Error> {
        todo!()
    }
}
