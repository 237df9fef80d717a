//! Bells: how a sleeper is woken across protection domains.
//!
//! A bell has two ends. Ringing writes eight bytes into one, the other becomes readable. It is a
//! pipe and not an eventfd, because both ends of an eventfd are one open file: whoever holds it can
//! fill its counter, take `O_NONBLOCK` off for everybody, and so make the other side's write sleep
//! for ever. That must not happen to exod, nor to a peer on a port. The ends of a pipe are two open
//! files, and what the holder of one does to its flags stays with it.
//!
//! A bell that was rung often and not heard is full, and stays as readable as it was: rings are
//! merged, never waited for.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// One ring.
const RING: [u8; 8] = 1u64.to_ne_bytes();

/// Bytes that a bell holds: one page, as little as a pipe can have.
const CAPACITY: usize = 4096;

/// Both ends of a bell.
#[derive(Clone, Debug)]
pub struct Bell {
    /// Readable while it rings. Kept here too, so that ringing never finds the pipe broken.
    pub sleeper: Arc<OwnedFd>,
    /// Eight bytes written here ring it.
    pub ringer: Arc<OwnedFd>,
}

impl Bell {
    /// A silent bell.
    pub fn new() -> io::Result<Bell> {
        let (sleeper, ringer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&ringer, CAPACITY)?;
        Ok(Bell {
            sleeper: Arc::new(sleeper),
            ringer: Arc::new(ringer),
        })
    }

    /// Rings it. Never waits: a full bell rings already.
    pub fn ring(&self) {
        let _ = rustix::io::write(&*self.ringer, &RING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_setfl};

    #[test]
    fn a_sleeper_cannot_make_ringing_wait() {
        let bell = Bell::new().expect("a pipe");
        fcntl_setfl(&*bell.sleeper, OFlags::empty()).expect("its own flags");
        for _ in 0..100_000 {
            bell.ring();
        }
        let mut heard = [0; 8];
        assert_eq!(rustix::io::read(&*bell.sleeper, &mut heard), Ok(8));
        assert_eq!(heard, RING);
    }
}
