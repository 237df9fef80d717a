//! Units that are sealed memory files, for where no private mount or no hugepage is to be had.
//!
//! Seals against growing and shrinking bind everybody, exod included, so revocation can only punch.
//! A memfd is born with mode 0777: until it is 0600, whoever holds a read-only descriptor could
//! reopen it writable through /proc. All three descriptors are opened that way from the memfd,
//! which is then closed: the kernel counts openers of them, and not of the memfd itself, and that
//! count tells when the last holder has let go.

#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};

use memmap2::{Advice, MmapOptions};
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_add_seals,
    ftruncate, memfd_create, open,
};
use rustix::io::Errno;

use super::unit::Files;
use super::{Error, FRAME_BYTES, PageKind, mount};

/// Makes the files of a unit of `frames` frames with pages of `kind`, zeroed and present.
pub(super) fn make(frames: u32, kind: PageKind) -> Result<Files, Error> {
    const WHAT: &str = "a sealed unit";
    let bytes = u64::from(frames) * FRAME_BYTES as u64;
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if kind == PageKind::Huge2M {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let memfd = memfd_create("exod-unit", flags).map_err(Error::kernel("memfd_create", WHAT))?;
    fchmod(&memfd, Mode::RUSR | Mode::WUSR).map_err(Error::kernel("fchmod", WHAT))?;
    ftruncate(&memfd, bytes).map_err(Error::kernel("ftruncate", WHAT))?;
    if kind == PageKind::Thp {
        populate_huge(&memfd)?;
    }
    rustix::io::retry_on_intr(|| fallocate(&memfd, FallocateFlags::empty(), 0, bytes)).map_err(
        |e| match e {
            Errno::NOSPC | Errno::NOMEM if kind == PageKind::Huge2M => mount::no_hugepages(bytes),
            e => Error::kernel("fallocate", WHAT)(e),
        },
    )?;
    let files = Files {
        mount: None,
        full: reopen(&memfd, OFlags::RDWR)?,
        client: reopen(&memfd, OFlags::RDWR)?,
        peer: reopen(&memfd, OFlags::RDONLY)?,
    };
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&memfd, seals).map_err(Error::kernel("fcntl(F_ADD_SEALS)", WHAT))?;
    Ok(files)
}

/// Brings the pages in through a mapping that asks for huge ones: under `advise`, fallocate alone
/// would bring in small ones.
fn populate_huge(memfd: &OwnedFd) -> Result<(), Error> {
    const WHAT: &str = "a unit of transparent hugepages";
    let map = MmapOptions::new()
        .map_raw(memfd)
        .map_err(Error::kernel("mmap", WHAT))?;
    map.advise(Advice::HugePage)
        .map_err(Error::kernel("madvise(HUGEPAGE)", WHAT))?;
    map.advise(Advice::PopulateWrite)
        .map_err(Error::kernel("madvise(POPULATE_WRITE)", WHAT))
}

fn reopen(memfd: &OwnedFd, access: OFlags) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    open(path, access | OFlags::CLOEXEC, Mode::empty()).map_err(Error::kernel(
        "open",
        "a unit through /proc/self/fd (is /proc mounted?)",
    ))
}
