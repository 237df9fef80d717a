//! Doorbells: how a busy side wakes a sleeping one, and how neither pays while both are busy.
//!
//! A side that goes to sleep makes the sleep word of its control line odd; a side that wakes makes
//! it even. The other side looks at that word after it published something, one load of a line
//! that it holds anyway, and writes to the sleeper's bell at most once for each odd value.
//!
//! Between "publish, then look" and "say asleep, then look" stands the classic race that needs a
//! full barrier on both sides. The sleeper, who is slow anyway, pays for both: `membarrier(2)` runs
//! one on every core that runs a registered process. So publishing costs no fence.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{Ordering, compiler_fence, fence};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::abi::port::SLEEP_WORD;
use crate::error::{Error, Result};
use crate::ring::Slots;
use crate::shm::{Words, barrier_everywhere, barrier_register};

/// How long a sleeper dozes at a time where the kernel has no membarrier for us: it may miss a
/// bell then, and looks again.
const DOZE: Duration = Duration::from_millis(1);

/// Both bells of a port, as seen from one side.
#[derive(Debug)]
pub(crate) struct Bells {
    own: OwnedFd,
    peer: OwnedFd,
    own_control: Words,
    peer_control: Words,
    sleeps: u64,
    rung_for: u64,
    /// The peer's barrier does not reach us: publish with a fence of our own.
    fence: bool,
}

impl Bells {
    pub(crate) fn new(
        own: OwnedFd,
        peer: OwnedFd,
        own_control: Words,
        peer_control: Words,
    ) -> Bells {
        let fence = !barrier_register();
        Bells {
            own,
            peer,
            own_control,
            peer_control,
            sleeps: 0,
            rung_for: 0,
            fence,
        }
    }

    /// After publishing: wakes the peer if it sleeps.
    #[inline]
    pub(crate) fn ring_if_asleep(&mut self) {
        if self.fence {
            fence(Ordering::SeqCst);
        } else {
            // The sleeper's barrier orders what the processor does; this, what the compiler does.
            compiler_fence(Ordering::SeqCst);
        }
        let word = self.peer_control.load(SLEEP_WORD);
        if word & 1 == 1 && word != self.rung_for {
            self.ring(word);
        }
    }

    #[cold]
    fn ring(&mut self, word: u64) {
        self.rung_for = word;
        // A full counter means that the bell rings already; nothing else can go wrong.
        let _ = rustix::io::write(&self.peer, &1u64.to_ne_bytes());
    }

    /// Sleeps until the peer rings, `event` is readable, or `timeout` passed. `ready` is asked
    /// once more after the peer can see that we sleep. True unless the time ran out.
    pub(crate) fn sleep(
        &mut self,
        event: BorrowedFd<'_>,
        timeout: Option<Duration>,
        ready: impl Fn() -> bool,
    ) -> Result<bool> {
        // Beyond the clock's end is for ever.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.sleeps += 1;
        self.own_control.store(SLEEP_WORD, self.sleeps * 2 - 1);
        let heard = barrier_everywhere();
        let woken = loop {
            if ready() {
                break Ok(true);
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break Ok(false);
            }
            let nap = if heard {
                left
            } else {
                Some(left.map_or(DOZE, |l| l.min(DOZE)))
            };
            match self.poll(event, nap) {
                Ok(false) => {}
                other => break other,
            }
        };
        self.own_control.store(SLEEP_WORD, self.sleeps * 2);
        self.hush();
        woken
    }

    /// Empties the bell, which is a pipe or an eventfd and never blocks (the client checked that).
    fn hush(&self) {
        let _ = rustix::io::read(&self.own, &mut [0u8; 4096]);
    }

    fn poll(&self, event: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool> {
        let mut fds = [
            PollFd::new(&self.own, PollFlags::IN),
            PollFd::from_borrowed_fd(event, PollFlags::IN),
        ];
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(errno) => Err(Error::System {
                call: "poll",
                source: errno.into(),
            }),
        }
    }

    /// The bell that this side sleeps on, for event loops of others.
    pub(crate) fn own_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}
