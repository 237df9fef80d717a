//! The listening socket: made so that it is never world-writable, removed when exod stops.
//!
//! A socket file outlives a daemon that was killed. Whether one is stale is asked by connecting to
//! it: when nobody answers, it is replaced; when somebody does, this exod gives way. The directory
//! is locked meanwhile, so that two that start together do not replace each other.
//!
//! A socket that the service manager opened is the manager's: it is used as it is, and its file
//! stays when exod stops, so that the next client starts exod again.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, chmod, fchmod, flock};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, socket_with,
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
    /// A manager's socket that everybody may write.
    #[error("everybody may connect to {0}: write SocketMode=0660 in the socket's unit")]
    Open(PathBuf),
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
    /// Device and inode of the file, when it is exod's to remove.
    file: Option<(u64, u64)>,
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
                file: Some(file),
            }),
            Err(e) => {
                let _ = fs::remove_file(path);
                Err(failed("exod must be root or a member of the group")(errno(
                    &e,
                )))
            }
        }
    }

    /// Listens at a socket that somebody else opened, and checked to be of the right kind.
    pub fn inherited(socket: OwnedFd) -> Result<Listener, ListenError> {
        let path = getsockname(&socket)
            .ok()
            .and_then(|any| SocketAddrUnix::try_from(any).ok())
            .and_then(|address| Some(PathBuf::from(OsStr::from_bytes(address.path_bytes()?))))
            .unwrap_or_default();
        if fs::metadata(&path).is_ok_and(|meta| meta.mode() & 0o002 != 0) {
            return Err(ListenError::Open(path));
        }
        // Its own flag, shared with the manager, who only polls it.
        ioctl_fionbio(&socket, true).map_err(|e| ListenError::Kernel {
            path: path.clone(),
            source: e.into(),
            hint: "is it a socket?",
        })?;
        Ok(Listener {
            socket,
            path,
            file: None,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
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
        if self.file.is_some() && identity(&self.path).ok() == self.file {
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
