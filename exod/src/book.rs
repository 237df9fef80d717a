//! What exod remembers of what it did: counters, the audit trail, and each session's own tally.
//!
//! The loop alone writes it, and reads it for admins. A session's request has a name in every log:
//! the session's number and the place of the request in it, both counted by exod and never used
//! again; what the client calls it (`seq`) is the client's own business.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use libexo::abi::counters::Counter;
use libexo::abi::wire::{ErrorCode, Op, PortName};

use crate::audit::{Subject, Trail, What};
use crate::counters::{Counters, unix_ms};
use crate::decode::Head;
use crate::identity::Identity;

/// Refusals of one session that are logged one by one; the end of the session tells how many there
/// were. So a client cannot fill the log.
const REFUSALS_LOGGED: u64 = 64;

/// See the module.
pub struct Book {
    /// What can be counted.
    pub counters: Arc<Counters>,
    trail: Option<Trail>,
}

/// What one session did. Written by the loop alone.
#[derive(Debug)]
pub struct Tally {
    /// The session's number.
    pub session: u64,
    /// Who it is.
    pub who: Identity,
    /// When it connected, in milliseconds since 1970.
    pub since_ms: u64,
    /// Requests that were answered.
    pub requests: AtomicU64,
    /// Of these, refused.
    pub refused: AtomicU64,
    /// Of these, granted a capability.
    pub granted: AtomicU64,
    /// Capabilities that were taken from it by force.
    pub lost: AtomicU64,
}

impl Tally {
    /// Of a session that begins now.
    pub fn new(session: u64, who: Identity) -> Tally {
        Tally {
            session,
            who,
            since_ms: unix_ms(SystemTime::now()),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// In the audit trail.
    pub fn subject(&self, domain: u64, request: u64) -> Subject {
        Subject {
            session: self.session,
            request,
            domain,
            uid: self.who.uid,
            pid: self.who.pid as u32,
        }
    }
}

/// Counts one more; gives the sum.
fn one_more(count: &AtomicU64) -> u64 {
    let sum = count.load(Ordering::Relaxed) + 1;
    count.store(sum, Ordering::Relaxed);
    sum
}

/// A request, when its answer is known.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The session's domain, or zero.
    pub domain: u64,
    /// Its place in the session, from 1 on.
    pub request: u64,
    /// What its reply repeats.
    pub head: Head,
    /// The port that it was about.
    pub port: Option<PortName>,
    /// How long it took.
    pub took: Duration,
}

impl Book {
    /// A new one.
    pub fn new(counters: Arc<Counters>, trail: Option<Trail>) -> Book {
        Book { counters, trail }
    }

    /// An event for the audit trail, where there is one.
    pub fn note(&self, subject: Subject, port: Option<PortName>, what: What) {
        if let Some(trail) = &self.trail {
            trail.note(subject, port, what);
        }
    }

    /// Lets the trail be written. Between turns of the loop.
    pub fn kick(&self) {
        self.counters.count(Counter::Turns);
        if let Some(trail) = &self.trail {
            trail.kick();
        }
    }

    /// The end of the trail; false when the disk hangs.
    pub fn close(self) -> bool {
        self.trail.is_none_or(Trail::stop)
    }

    /// A request was answered: with a handle, which zero stands for none of, or with an error.
    pub fn answered(&self, by: &Tally, about: &Answered, result: Result<u64, ErrorCode>) {
        self.counters.answered(about.head.op, about.took);
        one_more(&by.requests);
        let op = Op::from_raw(about.head.op);
        match (result, op) {
            (Ok(_), Some(Op::Hello)) => self.begun(by, about),
            (Ok(handle), Some(op)) if handle != 0 && grants(op) => {
                self.granted(by, about, op, handle);
            }
            (Ok(_), _) => {}
            (Err(code), op) => self.refused(by, about, op, code),
        }
    }

    fn begun(&self, by: &Tally, about: &Answered) {
        let Identity { gid, name, .. } = by.who;
        let subject = by.subject(about.domain, about.request);
        tracing::info!(
            target: "exod::audit",
            session = subject.session, domain = subject.domain, uid = subject.uid,
            pid = subject.pid, name = name.as_str(), "session began"
        );
        self.note(subject, None, What::Begin { gid, name });
    }

    fn granted(&self, by: &Tally, about: &Answered, op: Op, handle: u64) {
        self.counters.count(Counter::Grants);
        one_more(&by.granted);
        let subject = by.subject(about.domain, about.request);
        let Answered { head, port, .. } = *about;
        tracing::info!(
            target: "exod::audit",
            session = subject.session, request = subject.request, seq = head.seq,
            domain = subject.domain, ?op, handle, port = port.map(tracing::field::debug), "granted"
        );
        self.note(subject, port, What::Grant { op, handle });
    }

    fn refused(&self, by: &Tally, about: &Answered, op: Option<Op>, code: ErrorCode) {
        self.counters.refused(code);
        if one_more(&by.refused) > REFUSALS_LOGGED {
            return;
        }
        let subject = by.subject(about.domain, about.request);
        let Answered { head, port, .. } = *about;
        tracing::info!(
            target: "exod::audit",
            session = subject.session, request = subject.request, seq = head.seq,
            domain = subject.domain, ?op, number = head.op, ?code,
            port = port.map(tracing::field::debug), "refused"
        );
        self.note(subject, port, What::Refusal { op: head.op, code });
    }

    /// A capability was taken by force.
    pub fn lost(&self, by: &Tally, domain: u64, handle: u64) {
        self.counters.count(Counter::Losses);
        one_more(&by.lost);
        let subject = by.subject(domain, 0);
        let session = subject.session;
        tracing::info!(target: "exod::audit", session, domain, handle, "taken back");
        self.note(subject, None, What::Loss { handle });
    }
}

/// Whether a handle in this operation's answer is a new capability.
fn grants(op: Op) -> bool {
    !matches!(op, Op::Inspect | Op::List | Op::DomainNext | Op::PortNext)
}
