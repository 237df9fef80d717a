//! Descriptors that a service manager left for exod: the socket that it opened, and others.
//!
//! systemd opens the socket, starts exod with its first client, and says in `LISTEN_FDS` how many
//! descriptors from number 3 on are exod's, in `LISTEN_PID` for whom that was meant. What it says
//! is checked: a listening socket must be one that exod could have made itself, and there is at
//! most one. Descriptors that are no sockets were kept by the manager for an exod before this one;
//! they are handed out with their names, and whoever does not know a name closes it.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::fs::{FileType, fstat};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

/// What is wrong with what the manager left.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// The variables contradict the descriptors.
    #[error(
        "LISTEN_FDS, LISTEN_PID or LISTEN_FDNAMES is wrong: {0}; unset them to start exod by hand"
    )]
    Lie(io::Error),
    /// A socket that exod cannot serve.
    #[error("the socket {name:?} that the service manager opened {what}: {hint}")]
    Socket {
        /// Its name there.
        name: String,
        /// What it is.
        what: &'static str,
        /// What to write in its unit.
        hint: &'static str,
    },
    /// More than one.
    #[error("the service manager opened more than one socket: exod serves one")]
    Several,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket that listens.
    pub socket: Option<OwnedFd>,
    /// What was kept, by name.
    pub kept: Vec<(String, OwnedFd)>,
}

/// Takes what the manager left; nothing when there is none. Call it once, before anything else
/// opens a descriptor.
pub fn take() -> Result<Inherited, ActivationError> {
    // All of them are open, or this fails; from here on no child of exod's would get them.
    let named = sd_notify::listen_fds_with_names().map_err(ActivationError::Lie)?;
    let mut inherited = Inherited::default();
    for (number, name) in named {
        // SAFETY: the descriptor is open, as the call above made sure, and it is nobody else's:
        // LISTEN_PID names this process, which has opened nothing yet and asks only once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let is_socket = fstat(&fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_socket());
        if !is_socket {
            inherited.kept.push((name, fd));
            continue;
        }
        check(&fd).map_err(|(what, hint)| ActivationError::Socket { name, what, hint })?;
        if inherited.socket.replace(fd).is_some() {
            return Err(ActivationError::Several);
        }
    }
    Ok(inherited)
}

/// Whether a socket listens for what exod's clients say.
fn check(socket: impl AsFd) -> Result<(), (&'static str, &'static str)> {
    if socket_domain(&socket) != Ok(AddressFamily::UNIX) {
        return Err(("is no Unix socket", "write ListenSequentialPacket=/a/path"));
    }
    if socket_type(&socket) != Ok(SocketType::SEQPACKET) {
        let hint = "write ListenSequentialPacket= instead of ListenStream= or ListenDatagram=";
        return Err(("is not of the type SOCK_SEQPACKET", hint));
    }
    if socket_acceptconn(&socket) != Ok(true) {
        return Err(("does not listen", "write Accept=no"));
    }
    Ok(())
}
