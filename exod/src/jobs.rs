//! Slow kernel calls, off the server's loop.
//!
//! Making a unit clears pages; breaking one shoots down other cores' translations; a file's last
//! close may free gigabytes. The loop posts such a call here and goes on; when a worker has made
//! it, its result waits in a channel and the loop is woken. A call that hangs takes one worker with
//! it and nothing else.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryIter, unbounded};
use libexo::abi::counters::Job;
use mio::Waker;

use crate::config::JobHook;
use crate::counters::Counters;

/// How long a stopping exod waits for calls that are under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

struct Work<D> {
    job: Job,
    posted: Instant,
    call: Box<dyn FnOnce() -> D + Send>,
}

/// Worker threads, and the way to and from them.
///
/// The queues have no bound of their own: what a session can have queued is bounded by its pipeline
/// and its quota, and sessions are bounded too.
pub struct Jobs<D> {
    work: Sender<Work<D>>,
    done: Receiver<D>,
    threads: Vec<JoinHandle<()>>,
}

impl<D: Send + 'static> Jobs<D> {
    /// Starts `workers` threads of this name that call `waker` after each job.
    pub fn start(
        name: &str,
        workers: usize,
        waker: Arc<Waker>,
        hook: Option<JobHook>,
        counters: &Arc<Counters>,
    ) -> io::Result<Jobs<D>> {
        let (work, inbox) = unbounded::<Work<D>>();
        let (outbox, done) = unbounded();
        let spawn = |n| {
            let (inbox, outbox) = (inbox.clone(), outbox.clone());
            let (waker, hook) = (waker.clone(), hook.clone());
            let counters = counters.clone();
            thread::Builder::new()
                .name(format!("exod-{name}-{n}"))
                .spawn(move || run(&inbox, &outbox, &waker, hook.as_deref(), &counters))
        };
        let threads = (0..workers).map(spawn).collect::<io::Result<_>>()?;
        Ok(Jobs {
            work,
            done,
            threads,
        })
    }

    /// Posts a call. Its result comes out of [`Jobs::results`].
    pub fn post(&self, job: Job, call: impl FnOnce() -> D + Send + 'static) {
        let (posted, call) = (Instant::now(), Box::new(call));
        // The workers live as long as this sender.
        let _ = self.work.send(Work { job, posted, call });
    }

    /// What was done since the last call.
    pub fn results(&self) -> TryIter<'_, D> {
        self.done.try_iter()
    }

    /// Lets the workers finish what was posted, and hands `each` their results. Gives up after
    /// five seconds without any: then a call hangs in the kernel, and its thread is left to it.
    pub fn stop(self, mut each: impl FnMut(D)) -> bool {
        drop(self.work);
        loop {
            match self.done.recv_timeout(STOP_WAIT) {
                Ok(result) => each(result),
                Err(crossbeam::channel::RecvTimeoutError::Timeout) => return false,
                Err(crossbeam::channel::RecvTimeoutError::Disconnected) => break,
            }
        }
        for thread in self.threads {
            // A worker that panicked has said so on stderr.
            let _ = thread.join();
        }
        true
    }
}

fn run<D>(
    inbox: &Receiver<Work<D>>,
    outbox: &Sender<D>,
    waker: &Waker,
    hook: Option<&(dyn Fn(&str) + Send + Sync)>,
    counters: &Counters,
) {
    for Work { job, posted, call } in inbox {
        if let Some(hook) = hook {
            hook(job.name());
        }
        let done = call();
        // From when it was posted: waiting for a worker is part of what a client waits for.
        counters.done(job, posted.elapsed());
        if outbox.send(done).is_err() || waker.wake().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token};
    use std::sync::mpsc;

    #[test]
    fn a_held_job_does_not_hold_the_next_and_stop_collects_both() {
        let poll = Poll::new().expect("epoll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).expect("eventfd"));
        let counters = Arc::new(Counters::create().expect("a page"));
        let jobs = Jobs::start("job", 2, waker, None, &counters).expect("threads");
        let (release, held) = mpsc::channel::<()>();
        jobs.post(Job::Make, move || held.recv().map_or(0, |()| 1));
        jobs.post(Job::Break, || 2);
        let first = loop {
            if let Some(result) = jobs.results().next() {
                break result;
            }
            thread::yield_now();
        };
        assert_eq!(first, 2);
        release.send(()).expect("the held job waits");
        let mut rest = Vec::new();
        assert!(jobs.stop(|result| rest.push(result)));
        assert_eq!(rest, [1]);
    }
}
