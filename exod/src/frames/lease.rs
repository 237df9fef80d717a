//! The one question that only a lease answers: does anybody else have this file open or mapped?
//!
//! The kernel grants a write lease only when the descriptor that asks is the file's last. A mapping
//! holds its file open, and so does a descriptor that waits in a socket, so a grant means that
//! nobody can reach the file any more. (Pins of pages are not seen: they hold pages, not files.)

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// From asm-generic/fcntl.h; the libc crate lacks it.
const F_SETSIG: c_int = 10;

/// Whether `file`, opened readable and writable by its own `open`, is the last way to its inode.
pub(super) fn is_last_holder(file: impl AsFd) -> io::Result<bool> {
    let file = file.as_fd();
    // Root may open it through /proc while the lease lasts, and the kernel then signals us: by
    // default with SIGIO, which would end the process, so with one that is ignored by default.
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    match fcntl(file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => fcntl(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| true),
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(e) => Err(e),
    }
}

fn fcntl(file: BorrowedFd<'_>, command: c_int, argument: c_int) -> io::Result<()> {
    // SAFETY: the commands above take an int and touch no memory; the descriptor is borrowed.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
