//! Where descriptors of unknown make go to be closed.
//!
//! A client can send any file. Closing one may sleep for as long as its maker likes: a FUSE file
//! waits for its server's answer, a socket lingers. The same holds for a session's own socket,
//! since messages that were never read hold files too, and closing it closes them. So the loop
//! makes one call alone on such a descriptor, `F_GET_SEALS`, which only memory files answer and
//! which never sleeps; then it comes here, unread.
//!
//! One thread closes as long as closing works. When all are stuck, the next descriptor gets a
//! thread of its own, up to [`THREADS_MAX`]; beyond that they wait in line. A session counts
//! against its user's limit until its socket is closed here, so what one user can have stuck is
//! bounded too.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryIter, unbounded};
use mio::Waker;

/// Threads that may hang in a close at one time. A stuck thread costs a stack of a few pages.
pub const THREADS_MAX: usize = 64;

/// Descriptors to close together, and whose they were.
struct Load {
    owner: u32,
    fds: Vec<OwnedFd>,
}

/// The closer threads, from the loop's side.
pub struct Closer {
    work: Sender<Load>,
    inbox: Receiver<Load>,
    closed: Receiver<u32>,
    outbox: Sender<u32>,
    waker: Arc<Waker>,
    pending: Arc<AtomicUsize>,
    threads: usize,
}

impl Closer {
    /// Nothing runs before there is something to close.
    pub fn new(waker: Arc<Waker>) -> Closer {
        let (work, inbox) = unbounded();
        let (outbox, closed) = unbounded();
        Closer {
            work,
            inbox,
            closed,
            outbox,
            waker,
            pending: Arc::new(AtomicUsize::new(0)),
            threads: 0,
        }
    }

    /// Closes a session and what came over it, some time. Its user's id comes out of
    /// [`Closer::closed`] then.
    pub fn close(&mut self, owner: u32, fds: Vec<OwnedFd>) {
        let pending = self.pending.fetch_add(1, Ordering::Relaxed) + 1;
        if pending > self.threads && self.threads < THREADS_MAX {
            self.spawn();
        }
        // Both ends live in `self`.
        let _ = self.work.send(Load { owner, fds });
    }

    /// Users of the sessions that were closed since the last call.
    pub fn closed(&self) -> TryIter<'_, u32> {
        self.closed.try_iter()
    }

    /// Closes that are under way or wait.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Waits until all is closed, at most so long; what is left then hangs in the kernel.
    pub fn finish(self, patience: Duration) -> usize {
        let end = Instant::now() + patience;
        while self.pending() > 0 && self.closed.recv_deadline(end).is_ok() {}
        self.pending()
    }

    fn spawn(&mut self) {
        let (inbox, outbox) = (self.inbox.clone(), self.outbox.clone());
        let (waker, pending) = (self.waker.clone(), self.pending.clone());
        let spawned = thread::Builder::new()
            .name("exod-closer".into())
            .spawn(move || {
                for load in inbox {
                    drop(load.fds);
                    pending.fetch_sub(1, Ordering::Relaxed);
                    if outbox.send(load.owner).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            });
        match spawned {
            Ok(_) => self.threads += 1,
            Err(error) => tracing::warn!(%error, "no thread for closing; the others will do it"),
        }
    }
}

/// How many of these are memory files: the only thing that can be asked without sleeping.
pub fn memory_files(fds: &[OwnedFd]) -> usize {
    fds.iter()
        .filter(|fd| rustix::fs::fcntl_get_seals(fd).is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token};
    use rustix::fs::MemfdFlags;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_given_is_closed_and_reported() {
        let poll = Poll::new().expect("epoll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("eventfd"));
        let mut closer = Closer::new(waker);
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        closer.close(7, vec![ours.into()]);
        let mut end = Vec::new();
        assert_eq!(theirs.read_to_end(&mut end).expect("its end"), 0);
        while closer.closed().next() != Some(7) {
            thread::yield_now();
        }
        assert_eq!(closer.pending(), 0);
    }

    #[test]
    fn only_memory_files_have_seals() {
        let memory = rustix::fs::memfd_create("m", MemfdFlags::CLOEXEC).expect("a memfd");
        let (other, _end) = UnixStream::pair().expect("a pair");
        assert_eq!(memory_files(&[memory, other.into()]), 1);
    }
}
