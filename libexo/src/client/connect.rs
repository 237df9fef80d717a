//! Finding exod: a path, or a socket that this process was started with.

#![forbid(unsafe_code)]

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::{Error, Result};

/// Where exod listens unless told otherwise.
const DEFAULT_PATH: &str = "/run/exod/exod.sock";

/// A connected socket to the exod at `path`.
pub(super) fn to_path(path: &Path, timeout: Duration) -> Result<OwnedFd> {
    let connected = || -> Result<OwnedFd, Errno> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Bounds the wait for a place in a stopped daemon's queue.
        set_socket_timeout(&socket, Timeout::Send, Some(timeout)).map_err(|_| Errno::INVAL)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => return Ok(socket),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT),
                Err(errno) => return Err(errno),
            }
        }
    };
    connected().map_err(|errno| unreachable_at(path, errno.into()))
}

/// A connected socket to the exod that the environment names.
pub(super) fn from_environment(timeout: Duration) -> Result<OwnedFd> {
    if let Some(path) = env::var_os("EXO_SOCKET") {
        return to_path(Path::new(&path), timeout);
    }
    if let Some(number) = env::var_os("EXO_SOCKET_FD") {
        let name = PathBuf::from(format!("EXO_SOCKET_FD={}", number.display()));
        let number = number.to_str().and_then(|number| number.parse().ok());
        return inherited(number).map_err(|errno| unreachable_at(&name, errno.into()));
    }
    to_path(Path::new(DEFAULT_PATH), timeout)
}

/// A duplicate of the socket that has this number here. Taken through a pidfd of ourselves: nothing
/// proves to the compiler that nobody else owns that number, so it is not taken over.
fn inherited(number: Option<i32>) -> Result<OwnedFd, Errno> {
    let number = number.filter(|number| *number >= 0).ok_or(Errno::INVAL)?;
    let me = pidfd_open(getpid(), PidfdFlags::empty())?;
    let socket = pidfd_getfd(me, number, PidfdGetfdFlags::empty())?;
    if socket_type(&socket)? != SocketType::SEQPACKET {
        return Err(Errno::PROTOTYPE);
    }
    Ok(socket)
}

fn unreachable_at(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    Error::Connect { path, source }
}
