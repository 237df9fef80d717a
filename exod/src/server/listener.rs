//! The listening socket: made so that it is never world-writable, removed when exod stops.
//!
//! A socket file outlives a daemon that was killed. Whether one is stale is asked by connecting to
//! it: when nobody answers, it is replaced; when somebody does, this exod gives way. The directory
//! is locked meanwhile, so that two that start together do not replace each other.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, chmod, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

/// Owner and group may connect, nobody else.
const MODE: Mode = Mode::from_raw_mode(0o660);

/// Connections that may wait to be accepted. The loop takes them as they come.
const BACKLOG: i32 = 128;

/// Why exod does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another one does.
    #[error("another exod answers at {0}: stop it, or name another socket with --socket")]
    AlreadyRunning(PathBuf),
    /// Not a socket.
    #[error("{0} exists and is not a socket: remove it, or name another one with --socket")]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("cannot listen at {path}: {source}; {hint}")]
    Kernel {
        /// Where.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
}

/// A socket that listens, and its file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    file: (u64, u64),
}

impl Listener {
    /// Listens at `path` for exod's user and `group`.
    pub fn open(path: &Path, group: Option<u32>) -> Result<Listener, ListenError> {
        let failed = |hint| {
            move |e: Errno| ListenError::Kernel {
                path: path.to_owned(),
                source: e.into(),
                hint,
            }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("the path is too long"))?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let directory = fs::File::open(parent.unwrap_or(Path::new(".")))
            .map_err(|e| failed("make the directory")(errno(&e)))?;
        flock(&directory, FlockOperation::LockExclusive)
            .map_err(failed("cannot lock its directory"))?;
        clear_stale(path, &address)?;
        let socket = new_socket().map_err(failed("no socket to be had"))?;
        // The file takes its mode from the socket, so it is narrow from its first moment.
        fchmod(&socket, MODE).map_err(failed("cannot set its mode"))?;
        bind(&socket, &address).map_err(failed("exod must be able to write its directory"))?;
        let opened = finish(&socket, path, group);
        match opened {
            Ok(file) => Ok(Listener {
                socket,
                path: path.to_owned(),
                file,
            }),
            Err(e) => {
                let _ = fs::remove_file(path);
                Err(failed("exod must be root or a member of the group")(errno(
                    &e,
                )))
            }
        }
    }

    /// The next connection that waits; `WouldBlock` when none does.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(accept_with(&self.socket, flags)?)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only our own file: another exod may have replaced it.
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn finish(socket: &OwnedFd, path: &Path, group: Option<u32>) -> io::Result<(u64, u64)> {
    if let Some(group) = group {
        std::os::unix::fs::lchown(path, None, Some(group))?;
    }
    // The mask may have taken the group's bits; nobody can connect before the listen below.
    chmod(path, MODE)?;
    listen(socket, BACKLOG)?;
    identity(path)
}

fn clear_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let failed = |source| ListenError::Kernel {
        path: path.to_owned(),
        source,
        hint: "is another user's exod there?",
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let probe = new_socket().map_err(|e| failed(e.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // A full backlog is an answer too.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::AlreadyRunning(path.to_owned())),
        Err(e) => Err(failed(e.into())),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let stale = new_socket().expect("a socket");
        bind(&stale, &SocketAddrUnix::new(&path).expect("short")).expect("bound");
        drop(stale);
        assert!(path.exists());
        let first = Listener::open(&path, None).expect("it replaces the stale file");
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let second = Listener::open(&path, None);
        assert!(matches!(second, Err(ListenError::AlreadyRunning(_))));
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        fs::write(&path, "precious").expect("a file");
        let refused = Listener::open(&path, None);
        assert!(matches!(refused, Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("the file"), b"precious");
    }
}
