//! What a decoder asks of single values and descriptors. An error says what is wrong with the
//! reply.
//!
//! Descriptors from exod are asked with fstat and F_GETFL only. Their files are exod's own, so both
//! answer at once.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use super::grants::{Inspection, PeerSide};
use crate::abi::port::{PortFlags, RING_LOG2};
use crate::abi::wire::{ObjectKind, PageKind, Reply, Rights};

/// Largest unit or segment that makes sense: the user half of a 48-bit address space.
const BYTES_MAX: u64 = 1 << 47;

/// Granularity of everything that is mapped.
pub(super) const PAGE: u64 = 4096;

pub(super) type Decoded<T> = Result<T, &'static str>;

pub(super) fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Decoded<[OwnedFd; N]> {
    fds.try_into()
        .map_err(|_| "another number of descriptors than the operation has")
}

pub(super) fn granted(handle: u64) -> Decoded<u64> {
    if handle == 0 {
        Err("no handle")
    } else {
        Ok(handle)
    }
}

pub(super) fn page_kind(raw: u64) -> Decoded<PageKind> {
    PageKind::from_raw(raw).ok_or("no such page kind")
}

pub(super) fn inspection(handle: u64, reply: &Reply) -> Decoded<Inspection> {
    let [kind, rights, state, size, holders, pages] = reply.vals;
    let rights = u32::try_from(rights).ok().and_then(Rights::from_bits);
    let page_kind = match pages {
        0 => None,
        raw => Some(page_kind(raw)?),
    };
    Ok(Inspection {
        handle,
        kind: ObjectKind::from_raw(kind).ok_or("no such object kind")?,
        rights: rights.ok_or("no such rights")?,
        state,
        size,
        holders,
        page_kind,
    })
}

pub(super) fn peer_side(unit: u64, vals: &[u64; 6], fd: OwnedFd) -> Decoded<PeerSide> {
    let &[ring_log2, bytes, flags, kind, side, _] = vals;
    let ring_log2 = u32::try_from(ring_log2)
        .ok()
        .filter(|n| RING_LOG2.contains(n));
    let flags = u32::try_from(flags).ok().and_then(PortFlags::from_bits);
    Ok(PeerSide {
        unit_handle: granted(unit)?,
        ring_log2: ring_log2.ok_or("no such ring size")?,
        bytes: memory(&fd, bytes, OFlags::RDONLY)?,
        flags: flags.ok_or("no such port flags")?,
        page_kind: page_kind(kind)?,
        side: match side {
            0 => 0,
            1 => 1,
            _ => return Err("no such side"),
        },
        fd,
    })
}

/// Checks for whole pages of memory that was opened for `access`; gives the length.
pub(super) fn memory(fd: &OwnedFd, bytes: u64, access: OFlags) -> Decoded<usize> {
    if bytes == 0 || bytes > BYTES_MAX || !bytes.is_multiple_of(PAGE) {
        return Err("no such length of memory");
    }
    file(fd, bytes, access)
}

/// Checks for a file of `bytes` (or more) that was opened for `access`; gives the length.
pub(super) fn file(fd: &OwnedFd, bytes: u64, access: OFlags) -> Decoded<usize> {
    let stat = fstat(fd).map_err(|_| "a descriptor without a status")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("a descriptor that is no memory");
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size < bytes) {
        return Err("memory that is shorter than announced");
    }
    let flags = fcntl_getfl(fd).map_err(|_| "a descriptor without a status")?;
    if flags & OFlags::ACCMODE != access {
        return Err("memory with other access than the operation gives");
    }
    usize::try_from(bytes).map_err(|_| "no such length of memory")
}

/// Checks for the end of a bell that is heard ([`OFlags::RDONLY`]) or rung ([`OFlags::WRONLY`]):
/// a pipe's end or an eventfd (to fstat a file of no type), on which neither can wait.
pub(super) fn bell(fd: &OwnedFd, access: OFlags) -> Decoded<()> {
    let stat = fstat(fd).map_err(|_| "a descriptor without a status")?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let flags = fcntl_getfl(fd).map_err(|_| "a descriptor without a status")?;
    let mode = flags & OFlags::ACCMODE;
    if !matches!(kind, FileType::Unknown | FileType::Fifo) {
        return Err("a descriptor that is no bell");
    }
    if mode != access && mode != OFlags::RDWR {
        return Err("the wrong end of a bell");
    }
    if !flags.contains(OFlags::NONBLOCK) {
        return Err("a bell that makes its holder wait");
    }
    Ok(())
}
