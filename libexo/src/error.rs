//! What can go wrong between an application, exod and a peer, told so that a user can act on it.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use crate::abi::wire::{ErrorCode, Op};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that libexo reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// exod understood the request and said no.
    #[error("exod refused {op:?}: {code}")]
    Refused {
        /// The operation that was asked for.
        op: Op,
        /// exod's reason.
        code: ErrorCode,
    },
    /// There is no exod to talk to at that place.
    #[error("cannot reach exod at {}: {source}; {}", path.display(), connect_hint(source))]
    Connect {
        /// The socket, or the environment variable that named it.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// exod closed the session, or an earlier nonsense reply made libexo close it.
    #[error("the session with exod is over: connect again (exod's log says why it ended)")]
    Disconnected,
    /// exod answered something that its protocol does not allow.
    #[error(
        "exod's reply to {op:?} makes no sense ({reason}): install matching versions of exod and libexo"
    )]
    BadReply {
        /// The operation that was asked for.
        op: Op,
        /// What is wrong with the reply.
        reason: &'static str,
    },
    /// No answer in time. The session goes on; the late answer is dropped when it comes.
    #[error("exod did not answer {op:?} in time: it is stopped or overloaded; ask again")]
    TimedOut {
        /// The operation that was asked for.
        op: Op,
    },
    /// Memory or a capability was taken back, so what was just read may be zeroes and not data.
    #[error("revoked: exod took the memory or capability back, or its owner died")]
    Revoked,
    /// The other side of a port has left or died.
    #[error("the port's other side has left or died: drop the port")]
    PeerGone,
    /// The other side of a port broke the port's rules; the port is over.
    #[error("the port's other side broke the protocol: {0}")]
    PeerViolation(&'static str),
    /// A length, offset or count that does not fit.
    #[error("{what} is {got}, the limit is {limit}")]
    WrongSize {
        /// Which number.
        what: &'static str,
        /// Its value.
        got: u64,
        /// What it should have been at most (or at least).
        limit: u64,
    },
    /// A handle that this session can never have been given.
    #[error("handle {0:#x} is not from this session")]
    BadHandle(u64),
    /// The kernel refused a system call.
    #[error("{call} failed: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Error {
    /// exod's reason, when exod refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Wraps the error of a system call: `fstat(fd).map_err(Error::system("fstat"))`.
    pub(crate) fn system<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System {
            call,
            source: source.into(),
        }
    }
}

/// What a user can do about a socket that cannot be reached.
fn connect_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "the socket belongs to a group: add this user to it (`usermod -aG exo USER`) and log in again"
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "is exod running? `systemctl start exod`, set EXO_SOCKET, or embed one"
        }
        _ => "is EXO_SOCKET or EXO_SOCKET_FD an exod socket (SOCK_SEQPACKET)?",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_exod_says_what_to_do() {
        let at = |errno: rustix::io::Errno| {
            let (path, source) = ("/run/x".into(), errno.into());
            Error::Connect { path, source }.to_string()
        };
        assert!(at(rustix::io::Errno::NOENT).contains("systemctl start exod"));
        assert!(at(rustix::io::Errno::CONNREFUSED).contains("is exod running?"));
        assert!(at(rustix::io::Errno::ACCESS).contains("group"));
        assert!(at(rustix::io::Errno::PROTOTYPE).contains("SOCK_SEQPACKET"));
    }
}
