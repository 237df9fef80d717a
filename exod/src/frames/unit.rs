//! A unit of frames, and what is left of it after revocation.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, fallocate, fstat, fstatfs, ftruncate};

use super::{Error, FRAME_BYTES, PageKind, Protection, lease, mount};

/// How often [`Revoked::returned`] cuts and takes pages again under a holder that races it for
/// them, before it leaves the rest to the next call. Each round keeps what it won.
const HOLD_ROUNDS: u32 = 8;

/// A unit's descriptors.
#[derive(Debug)]
pub(super) struct Files {
    /// The private mount, under [`Protection::Mount`].
    pub(super) mount: Option<OwnedFd>,
    /// exod's own: may truncate where seals allow it.
    pub(super) full: OwnedFd,
    /// Readable and writable, by an `open` of its own.
    pub(super) client: OwnedFd,
    /// Read-only, likewise.
    pub(super) peer: OwnedFd,
}

/// One file of one or more zeroed frames, owned by exod.
///
/// Dropping it closes exod's descriptors and breaks nothing: use it so only for a unit that nobody
/// else has seen.
#[derive(Debug)]
pub struct Unit {
    frames: u32,
    kind: PageKind,
    files: Files,
}

impl Unit {
    pub(super) fn new(frames: u32, kind: PageKind, files: Files) -> Unit {
        Unit {
            frames,
            kind,
            files,
        }
    }

    /// Frames in it.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        self.frames as usize * FRAME_BYTES
    }

    /// Pages behind it.
    pub fn page_kind(&self) -> PageKind {
        self.kind
    }

    /// What protects those who share it.
    pub fn protection(&self) -> Protection {
        match self.files.mount {
            Some(_) => Protection::Mount,
            None => Protection::Seals,
        }
    }

    /// For the one client that may write: readable and writable, without the right to truncate.
    pub fn client_fd(&self) -> BorrowedFd<'_> {
        self.files.client.as_fd()
    }

    /// For those who may only read.
    pub fn peer_fd(&self) -> BorrowedFd<'_> {
        self.files.peer.as_fd()
    }

    /// Takes the contents from every mapping, by whomever, now. Blocks for some 10 to 30 us: run it
    /// as a job, and ask [`Revoked::returned`] in the same job, which also bars a living holder
    /// from having pages back.
    ///
    /// Never fails: should the kernel refuse, [`Revoked::returned`] tries again and says so.
    pub fn revoke(self) -> Revoked {
        let Files { mount, full, .. } = self.files;
        let mut remains = Remains {
            mount,
            full,
            hold: None,
            bytes: u64::from(self.frames) * FRAME_BYTES as u64,
        };
        // The answer is asked for again, and reported, by `returned`.
        let _ = remains.cut();
        Revoked {
            frames: self.frames,
            kind: self.kind,
            remains: Some(remains),
        }
    }
}

/// A unit that was taken back. Keep it, and charge its frames to the domain that had it, until
/// [`returned`](Revoked::returned) is true.
///
/// Dropping it early gives up only the proof: frames that somebody still holds stay with them.
#[derive(Debug)]
pub struct Revoked {
    frames: u32,
    kind: PageKind,
    remains: Option<Remains>,
}

impl Revoked {
    /// Frames that are taken back or being waited for.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Pages behind it.
    pub fn page_kind(&self) -> PageKind {
        self.kind
    }

    /// Whether every frame is back with the kernel: nobody has the file open or mapped, and (on a
    /// mount) nothing pins its pages. False means *pinned*: ask again later, or end the holder.
    /// While it is false, a holder on a mount can have no page of it back, which costs the zeroing
    /// of each frame once. Run it as a job. Once true, always true.
    ///
    /// # Errors
    /// The kernel refused to break the mappings, or to tell.
    pub fn returned(&mut self) -> Result<bool, Error> {
        if let Some(remains) = &mut self.remains {
            if !remains.are_back()? {
                return Ok(false);
            }
            // Closing the last descriptors gives the mount's reservation back to the pool.
            self.remains = None;
        }
        Ok(true)
    }
}

/// What exod keeps of a revoked unit until its frames are back.
#[derive(Debug)]
struct Remains {
    mount: Option<OwnedFd>,
    full: OwnedFd,
    /// Takes the mount's pages while somebody else could.
    hold: Option<OwnedFd>,
    bytes: u64,
}

impl Remains {
    /// Takes the contents from every mapping.
    fn cut(&mut self) -> Result<(), Error> {
        const WHAT: &str = "taking back a unit";
        if self.mount.is_some() {
            return ftruncate(&self.full, 0).map_err(Error::kernel("ftruncate", WHAT));
        }
        // A holder may have made a file of hugepages longer by mapping it, whatever its seals say.
        let len = fstat(&self.full)
            .map_err(Error::kernel("fstat", WHAT))?
            .st_size as u64;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::io::retry_on_intr(|| fallocate(&self.full, punch, 0, len.max(self.bytes)))
            .map_err(Error::kernel("fallocate(PUNCH_HOLE)", WHAT))
    }

    fn are_back(&mut self) -> Result<bool, Error> {
        self.cut()?;
        let last = lease::is_last_holder(&self.full).map_err(Error::kernel(
            "fcntl(F_SETLEASE)",
            "a unit that was taken back",
        ))?;
        if last {
            // Nobody is left who could take pages, and nobody can come: it has no name. What a
            // holder put back between the first cut and its end goes now.
            self.cut()?;
            self.hold = None;
            return self.pages_are_free();
        }
        for _ in 0..HOLD_ROUNDS {
            let Some(mount) = &self.mount else { break };
            if mount::hold_pages(mount, &mut self.hold, self.bytes)? {
                break;
            }
            self.cut()?;
        }
        Ok(false)
    }

    /// Whether the mount has all its pages: a page that is pinned is not among them.
    fn pages_are_free(&self) -> Result<bool, Error> {
        let Some(mount) = &self.mount else {
            return Ok(true);
        };
        let stat = fstatfs(mount).map_err(Error::kernel("fstatfs", "a unit's mount"))?;
        Ok(stat.f_bfree == stat.f_blocks)
    }
}
