//! How connections begin and end.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libexo::abi::counters::Counter;
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::{Ended, SESSION, Server, Session};
use crate::audit::What;
use crate::book::Tally;
use crate::identity::identify;
use crate::invoke::Caller;

/// Connections accepted in one turn.
const ACCEPT_BUDGET: usize = 16;

/// Closes that may hang or wait before exod accepts nobody new. Each holds descriptors of exod's,
/// and without a bound a user who sends files that cannot be closed would take them all.
const CLOSES_MAX: usize = 1024;

/// How long to leave the listener alone when it has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whom a peer without an identity is charged to.
const NOBODY: u32 = u32::MAX;

impl Server {
    pub(super) fn may_accept(&self) -> bool {
        self.accept_after.is_none() && self.closer.pending() < CLOSES_MAX
    }

    pub(super) fn accept(&mut self) {
        if self.accept_after.is_some_and(|at| at <= Instant::now()) {
            self.accept_after = None;
        }
        for _ in 0..ACCEPT_BUDGET {
            if !self.acceptable || !self.may_accept() {
                return;
            }
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok(socket) => self.admit(socket),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
                // A client that was gone before it was accepted, or a signal.
                Err(e) if is_passing(&e) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept: raise LimitNOFILE, or lower `sessions`");
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                }
            }
        }
    }

    /// A new connection, from wherever.
    pub(super) fn admit(&mut self, socket: OwnedFd) {
        let (who, pidfd) = match identify(socket.as_fd()) {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "a peer without an identity was refused");
                self.state.book.counters.count(Counter::SessionsRefused);
                // It may have sent files before it was refused, like anybody else.
                self.state.accounts.add(NOBODY, SESSION);
                self.closer.close(NOBODY, vec![socket]);
                return;
            }
        };
        let uid = who.uid;
        let full = self.state.accounts.sessions() >= self.config.sessions.0
            || self.state.accounts.of(uid).sessions >= self.config.sessions_per_user.0;
        self.state.accounts.add(uid, SESSION);
        if full {
            tracing::info!(target: "exod::audit", uid, pid = who.pid, "refused: too many sessions");
            self.turned_away(&Tally::new(0, who), "too many sessions");
            self.closer.close(uid, vec![socket]);
            return;
        }
        let grant = self.config.policy.grant_for(&who).cloned();
        self.last_session += 1;
        let id = self.last_session;
        tracing::debug!(session = id, uid, pid = who.pid, "connected");
        let caller = Caller {
            tally: Arc::new(Tally::new(id, who)),
            grant,
            domain: None,
        };
        let book = self.state.book.clone();
        book.counters.count(Counter::SessionsBegun);
        let session = Session::new(socket, pidfd, caller, book);
        let registered = self.register(id, &session);
        self.sessions.insert(id, session);
        match registered {
            Ok(()) => self.queue_turn(id),
            Err(error) => {
                tracing::error!(%error, "cannot watch a session");
                self.end(id, &Ended::HungUp);
            }
        }
    }

    fn turned_away(&self, who: &Tally, why: &'static str) {
        let book = &self.state.book;
        book.counters.count(Counter::SessionsRefused);
        book.note(who.subject(0, 0), None, What::TurnedAway { why });
    }

    pub(super) fn register(&self, id: u64, session: &Session) -> io::Result<()> {
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = id as usize * 2;
        let socket = session.socket().as_raw_fd();
        registry.register(&mut SourceFd(&socket), Token(token), both)?;
        let pidfd = session.pidfd().as_raw_fd();
        registry.register(&mut SourceFd(&pidfd), Token(token + 1), Interest::READABLE)
    }

    /// Ends a session: what it held is taken back, its socket goes to the closer.
    pub(super) fn end(&mut self, id: u64, why: &Ended) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        for fd in [session.socket().as_raw_fd(), session.pidfd().as_raw_fd()] {
            let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
        session.ended(why);
        if let Some(domain) = session.caller.domain {
            self.state.end_domain(domain);
        }
        let uid = session.caller.tally.who.uid;
        self.closer.close(uid, session.into_fds());
        self.state.closes_pending = self.closer.pending();
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}
