//! The thread that writes: batches of lines, losses counted, a full disk sat out.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use libexo::abi::counters::Counter;

use super::file::{AuditFile, is_full};
use super::{Entry, Shared, line};
use crate::counters::Counters;

/// Lines that are written together.
const BATCH: usize = 256;

/// How long the writer waits for more before it sleeps: under load it is woken this seldom.
const LINGER: Duration = Duration::from_millis(10);

/// How long it waits after the disk has refused.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    file: AuditFile,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    /// The number of the last line in the file.
    last: u64,
    failing: bool,
    unsynced: bool,
}

impl Writer {
    pub(super) fn new(
        file: AuditFile,
        last: u64,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
    ) -> Writer {
        Writer {
            file,
            shared,
            counters,
            last,
            failing: false,
            unsynced: false,
        }
    }

    /// Until it is told to stop and the queue is empty.
    pub(super) fn run(mut self) {
        loop {
            // Before the queue is drained: what came before the word to stop is written.
            let stop = self.shared.stop.load(Ordering::Acquire);
            let wrote = self.drain();
            if self.shared.entries.is_empty() || self.failing {
                self.sync();
                if stop {
                    break;
                }
            }
            if self.failing {
                self.rest(RETRY);
            } else if wrote {
                self.rest(LINGER);
            } else {
                self.sleep();
            }
        }
        self.shared.done.store(true, Ordering::Release);
    }

    /// Sleeps until there is something to do.
    fn sleep(&self) {
        self.shared.parked.store(true, Ordering::SeqCst);
        let idle = self.shared.entries.is_empty() && !self.shared.stop.load(Ordering::SeqCst);
        if idle {
            thread::park();
        }
        self.shared.parked.store(false, Ordering::SeqCst);
    }

    /// Waits so long, or until exod stops.
    fn rest(&self, time: Duration) {
        if !self.shared.stop.load(Ordering::Acquire) {
            thread::park_timeout(time);
        }
    }

    /// Writes what waits. Whether there was anything.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while let Some(first) = self.shared.entries.pop() {
            any = true;
            let mut batch = vec![first];
            let more = std::iter::from_fn(|| self.shared.entries.pop());
            batch.extend(more.take(BATCH - 1));
            if let Err(error) = self.write(&batch) {
                self.failed(&batch, &error);
                return true;
            }
        }
        any
    }

    fn write(&mut self, batch: &[Entry]) -> io::Result<()> {
        let (mut text, mut last) = (Vec::new(), self.last);
        for entry in batch {
            // Numbers that are missing were lost, wherever that was.
            let lost = entry.seq.saturating_sub(last + 1);
            if lost > 0 {
                line::write_lost(entry.seq - 1, SystemTime::now(), lost, &mut text);
            }
            line::write(entry, &mut text);
            last = entry.seq;
        }
        self.file.append(&text)?;
        self.last = last;
        self.unsynced = true;
        if std::mem::take(&mut self.failing) {
            tracing::warn!(path = %self.file.path().display(), "the audit trail goes on");
        }
        Ok(())
    }

    fn failed(&mut self, batch: &[Entry], error: &io::Error) {
        let lost = batch.len() as u64;
        self.counters.add_shared(Counter::AuditLost, lost);
        if !std::mem::replace(&mut self.failing, true) {
            let path = self.file.path().display();
            let hint = if is_full(error) {
                "make room on its disk"
            } else {
                "see to it that exod can write it and rename it in its directory"
            };
            tracing::error!(%path, %error, "the audit trail loses lines until it can be written: {hint}");
        }
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.unsynced)
            && let Err(error) = self.file.sync()
        {
            tracing::warn!(path = %self.file.path().display(), %error, "the audit trail may not outlive the machine");
        }
    }
}
