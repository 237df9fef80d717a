//! exod in a thread: the same server, without a socket file and without privileges.
//!
//! For tests, first runs and development. Connections are ends of socketpairs; whoever holds one,
//! a child process included, speaks for the process that embeds exod, since the kernel knows the
//! pair as that process's. When the [`Embedded`] is dropped the server stops: all sessions end and
//! what was granted is taken back by force, so drop clients first.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::config::Config;
use crate::frames::Offer;
use crate::server::{Remote, Server};
use crate::state::StartError;

/// A running exod inside this process.
pub struct Embedded {
    remote: Remote,
    offer: Offer,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Embedded {
    /// Starts it. [`Config::embedded`] allows everything to this process's user.
    pub fn start(config: Config) -> Result<Embedded, StartError> {
        let mut server = Server::new(&config, None)?;
        let (remote, offer) = (server.remote(), server.offer().clone());
        let thread = thread::Builder::new()
            .name("exod".into())
            .spawn(move || {
                let outcome = server.serve();
                server.stop();
                outcome
            })
            .map_err(|source| StartError::Kernel {
                what: "cannot start exod's thread",
                source,
            })?;
        Ok(Embedded {
            remote,
            offer,
            thread: Some(thread),
        })
    }

    /// A new session's socket, closed on exec. A child process may have it: clear that flag, or
    /// pass the descriptor on.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        self.remote.connect(ours)?;
        Ok(theirs)
    }

    /// What memory it hands out, and why not better.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.remote.stop();
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the embedded exod failed"),
                Err(_) => tracing::error!("the embedded exod panicked"),
            }
        }
    }
}
