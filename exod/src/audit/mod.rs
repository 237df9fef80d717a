//! The audit trail: a file with a line for each grant, refusal, loss, and session.
//!
//! The server's loop numbers events and puts them into a bounded queue; a thread of its own writes
//! them as lines of JSON. The loop never waits for a disk: what finds no room in the queue, or on
//! the disk, is lost, and since numbers rise by one, also from one start of exod to the next, what
//! is lost shows as a gap, which the next line that can be written explains.
//!
//! The file survives exod. It is append-only to exod itself, and not proof against whoever may
//! write it otherwise: exod's user and root.

#![forbid(unsafe_code)]

mod file;
mod line;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::queue::ArrayQueue;
use libexo::abi::wire::{ErrorCode, Op, PortName, ProcessName};

use crate::counters::Counters;

pub use file::AuditError;

/// Where the trail is when the configuration only says that there is one, and where `exo log` looks
/// when it cannot read the configuration.
pub const AUDIT_PATH: &str = "/var/lib/exod/audit.jsonl";

/// Events between the loop and the thread: what a busy exod does in some ten milliseconds. Half a
/// megabyte.
const QUEUE: usize = 4096;

/// How long a stopping exod waits for the disk to take the last lines.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Where the trail is, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// The file.
    pub path: PathBuf,
    /// The group that may read it.
    pub group: Option<u32>,
    /// Bytes after which it is set aside.
    pub bytes_max: u64,
    /// Files that were set aside and are kept, as `PATH.1` (the newest), `PATH.2`, ...
    pub kept: u32,
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its session's number; zero for exod itself.
    pub session: u64,
    /// The session's request that made it happen, counted from 1; zero where none did.
    pub request: u64,
    /// Its domain.
    pub domain: u64,
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// exod started.
    Start,
    /// exod stops; where this is missing before a start, it crashed or was killed.
    Stop,
    /// A session said hello.
    Begin {
        /// Its group.
        gid: u32,
        /// Its process's own name.
        name: ProcessName,
    },
    /// A session ended.
    End {
        /// Why.
        why: &'static str,
        /// Requests of it that were refused, those too that have no line.
        refused: u64,
    },
    /// A connection was not let in.
    TurnedAway {
        /// Why.
        why: &'static str,
    },
    /// A capability was granted.
    Grant {
        /// By which operation.
        op: Op,
        /// The capability.
        handle: u64,
    },
    /// A request was refused.
    Refusal {
        /// The operation's number, known or not.
        op: u16,
        /// Why.
        code: ErrorCode,
    },
    /// A side of a port was left.
    Left {
        /// The side.
        handle: u64,
        /// Why, as its holder says.
        reason: u64,
    },
    /// A capability was taken by force.
    Loss {
        /// Which.
        handle: u64,
    },
    /// Frames were taken back, but something still pins them.
    Pinned {
        /// The object.
        object: u64,
        /// How many.
        frames: u32,
    },
}

/// An event with its number.
#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: u64,
    at: SystemTime,
    subject: Subject,
    port: Option<PortName>,
    what: What,
}

/// What the loop and the writer share.
struct Shared {
    entries: ArrayQueue<Entry>,
    /// The writer sleeps, and somebody has to wake it.
    parked: AtomicBool,
    stop: AtomicBool,
    /// It has written all that it could, after `stop`.
    done: AtomicBool,
}

/// The loop's end of the trail.
pub struct Trail {
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    next_seq: AtomicU64,
    thread: JoinHandle<()>,
}

impl Trail {
    /// Opens the file, mends what a crash left, and starts the thread.
    ///
    /// # Errors
    /// The file cannot be had. A full disk is none: that can pass.
    pub fn open(config: AuditConfig, counters: Arc<Counters>) -> Result<Trail, AuditError> {
        let (file, last, next) = file::AuditFile::open(config)?;
        let shared = Arc::new(Shared {
            entries: ArrayQueue::new(QUEUE),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            done: AtomicBool::new(false),
        });
        let writer = writer::Writer::new(file, last, shared.clone(), counters.clone());
        let thread = thread::Builder::new().name("exod-audit".into());
        let thread = thread
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        let trail = Trail {
            shared,
            counters,
            next_seq: AtomicU64::new(next),
            thread,
        };
        trail.note(Subject::default(), None, What::Start);
        Ok(trail)
    }

    /// Puts an event into the queue. Never waits.
    pub fn note(&self, subject: Subject, port: Option<PortName>, what: What) {
        use libexo::abi::counters::Counter;
        let entry = Entry {
            seq: self.next_seq.fetch_add(1, Ordering::Relaxed),
            at: SystemTime::now(),
            subject,
            port,
            what,
        };
        self.counters.add_shared(Counter::AuditEvents, 1);
        if self.shared.entries.push(entry).is_err() {
            self.counters.add_shared(Counter::AuditLost, 1);
        }
    }

    /// Wakes the writer if it sleeps and there is something for it. Called between turns, so that
    /// no request waits for it.
    pub fn kick(&self) {
        if !self.shared.entries.is_empty() && self.shared.parked.swap(false, Ordering::SeqCst) {
            self.thread.thread().unpark();
        }
    }

    /// The last line, and the end of the thread; false when the disk hangs.
    pub fn stop(self) -> bool {
        const TURN: Duration = Duration::from_millis(1);
        self.note(Subject::default(), None, What::Stop);
        self.shared.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        let end = Instant::now() + STOP_WAIT;
        while !self.shared.done.load(Ordering::Acquire) {
            if Instant::now() > end || self.thread.is_finished() {
                return false;
            }
            thread::sleep(TURN);
        }
        // It has nothing left to do; if it panicked it has said so on stderr.
        let _ = self.thread.join();
        true
    }
}

#[cfg(test)]
mod tests;
