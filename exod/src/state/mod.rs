//! Everything that a request can change: table, frames, ports, accounts. No socket in it.
//!
//! Changes run through the capability table, which answers with events; `State::settle` makes
//! them true outside of it: a status word, a side that leaves, a unit that is broken. What takes
//! long is a job; what would walk far is a *chore*, done in steps between turns of the loop; what
//! has to wait is a chore with a time. So no call in here is long or sleeps, and there is one way
//! only for anything to end, whether it was dropped, left, revoked, or its holder was killed.

#![forbid(unsafe_code)]

mod chores;
mod settle;
mod work;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use libexo::abi::wire::{ErrorCode, ObjectKind, Rights};

use self::chores::Chore;
use self::work::Shortage;
pub(crate) use self::work::{Done, Order};
use crate::accounts::{Account, Accounts};
use crate::bell::Bell;
use crate::book::{Book, Tally};
use crate::captable::{DomainId, Limits, ObjectId, ObjectView, Table};
use crate::config::{Config, SESSIONS_MAX};
use crate::frames::{self, FRAME_BYTES, Maker, Offer, Pool, Revoked, Unit};
use crate::jobs::Jobs;
use crate::ports::Ports;
use crate::status::StatusTable;

/// Table slots for capabilities: a word each in every session's status table.
const CAPABILITY_SLOTS: u32 = 1 << 16;

/// Table slots for objects.
const OBJECT_SLOTS: u32 = 1 << 14;

/// Which reply of which session a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session; its number is not used again.
    pub session: u64,
    /// The place in its line of replies.
    pub place: u64,
}

/// A descriptor to go with a reply, looked up when the reply is sent.
#[derive(Clone, Debug)]
pub enum FdRef {
    /// A bell or a status table.
    Own(Arc<OwnedFd>),
    /// A unit's, for its one writer.
    Writer(ObjectId),
    /// A unit's, for those who read.
    Reader(ObjectId),
}

/// What a request that succeeded is answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The handle that it made or found.
    pub handle: u64,
    /// Values.
    pub vals: [u64; 6],
    /// Descriptors.
    pub fds: Vec<FdRef>,
}

/// A result of a job that was promised to a session.
pub type Promised = (Ticket, Result<Answer, ErrorCode>);

/// A domain whose session lives.
pub(crate) struct Live {
    pub(crate) status: StatusTable,
    pub(crate) bell: Bell,
    /// Its status table has news that the bell has not told.
    news: bool,
}

pub(crate) struct Domain {
    pub(crate) uid: u32,
    pub(crate) tally: Arc<Tally>,
    pub(crate) live: Option<Live>,
}

/// A unit that is bound.
pub(crate) struct UnitState {
    unit: Unit,
    /// Its owner's first capability.
    pub(crate) root: u64,
    /// A peer may have it mapped as a segment for ever, so it is never another port's segment.
    pub(crate) was_segment: bool,
    /// Its owner is gone: nobody gets new capabilities on it.
    pub(crate) asked_back: bool,
}

/// Why a capability went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its holder gave it back.
    Given,
    /// It was taken.
    Taken,
}

/// See the module.
pub struct State {
    pub(crate) table: Table,
    pub(crate) ports: Ports,
    pub(crate) units: HashMap<ObjectId, UnitState>,
    pub(crate) domains: HashMap<DomainId, Domain>,
    /// How often a unit's handle is laid open on a port.
    pub(crate) uses: HashMap<u64, u32>,
    /// What users hold.
    pub accounts: Accounts,
    pub(crate) book: Arc<Book>,
    pub(crate) offer: Offer,
    pub(crate) pool: Pool,
    maker: Arc<Maker>,
    jobs: Jobs<Done>,
    jobs_pending: u32,
    chores: VecDeque<Chore>,
    later: BTreeMap<(Instant, u64), Chore>,
    later_count: u64,
    news: Vec<DomainId>,
    pinned: Vec<(ObjectId, Revoked)>,
    pinned_polls: bool,
    shortage: Shortage,
    frames_max: u64,
    give_back_ms: u16,
    /// Sockets that are being closed, as the loop last saw it.
    pub(crate) closes_pending: usize,
}

/// Why exod could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No table.
    #[error(transparent)]
    Table(#[from] crate::captable::OpenError),
    /// No memory to hand out.
    #[error(transparent)]
    Frames(#[from] frames::Error),
    /// No audit trail.
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What for.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

impl State {
    /// An empty ledger over the frames that the configuration names.
    pub(crate) fn new(
        config: &Config,
        jobs: Jobs<Done>,
        book: Arc<Book>,
    ) -> Result<State, StartError> {
        let offer = frames::probe(config.pool.pages)?;
        for reason in &offer.reasons {
            tracing::warn!(pages = offer.page_kind.name(), "{reason}");
        }
        let limits = Limits {
            capabilities: CAPABILITY_SLOTS,
            objects: OBJECT_SLOTS,
            // Twice the sessions: a dead domain's record stays while a pin holds its frames. As
            // many as can ever be configured, since a reload may raise `sessions`; a record that
            // was never used costs no memory.
            domains: 2 * SESSIONS_MAX + 1,
        };
        let mut state = State {
            table: Table::create(limits)?,
            ports: Ports::default(),
            units: HashMap::new(),
            domains: HashMap::new(),
            uses: HashMap::new(),
            accounts: Accounts::default(),
            book,
            maker: Arc::new(Maker::new(&offer)?),
            offer,
            pool: Pool::new(&config.pool.ready.targets()),
            jobs,
            jobs_pending: 0,
            chores: VecDeque::new(),
            later: BTreeMap::new(),
            later_count: 0,
            news: Vec::new(),
            pinned: Vec::new(),
            pinned_polls: false,
            shortage: Shortage::default(),
            frames_max: u64::from(config.pool.frames.0),
            give_back_ms: config.give_back_ms,
            closes_pending: 0,
        };
        state.restock();
        Ok(state)
    }

    /// Takes over what a reload may change. What is granted stays granted.
    pub(crate) fn reconfigure(&mut self, config: &Config) {
        self.frames_max = u64::from(config.pool.frames.0);
        self.give_back_ms = config.give_back_ms;
        self.retarget(&config.pool.ready.targets());
    }

    /// Units that are ready, and units that shall be.
    pub(crate) fn stock(&self) -> (usize, usize) {
        self.pool.stock()
    }

    /// Frames that may still be granted to somebody.
    pub(crate) fn frames_free(&self) -> u64 {
        self.frames_max.saturating_sub(self.accounts.frames())
    }

    /// Jobs whose result has not come.
    pub(crate) fn jobs_pending(&self) -> u32 {
        self.jobs_pending
    }

    /// Takes in what jobs have done, and what that answers.
    pub(crate) fn collect(&mut self) -> Vec<Promised> {
        let done: Vec<Done> = self.jobs.results().collect();
        done.into_iter().filter_map(|d| self.finish(d)).collect()
    }

    /// Does a few steps of what is due. True when there is more to do at once.
    pub(crate) fn do_chores(&mut self, now: Instant) -> bool {
        while let Some(entry) = self.later.first_entry().filter(|e| e.key().0 <= now) {
            self.chores.push_back(entry.remove());
        }
        if let Some(chore) = self.chores.pop_front() {
            self.step(chore);
        }
        !self.chores.is_empty()
    }

    /// When the next chore is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    /// Rings once for each domain whose status table has news.
    pub(crate) fn ring_bells(&mut self) {
        for id in std::mem::take(&mut self.news) {
            if let Some(live) = self.live_mut(id) {
                live.news = false;
                live.bell.ring();
            }
        }
    }

    /// The descriptor that a reply named, unless it was revoked meanwhile.
    pub(crate) fn fd<'a>(&'a self, fd: &'a FdRef) -> Option<std::os::fd::BorrowedFd<'a>> {
        use std::os::fd::AsFd;
        match fd {
            FdRef::Own(fd) => Some(fd.as_fd()),
            FdRef::Writer(id) => self.units.get(id).map(|u| u.unit.client_fd()),
            FdRef::Reader(id) => self.units.get(id).map(|u| u.unit.peer_fd()),
        }
    }

    /// Everything ends: all holders are told, and units are broken, whoever maps them. False when a
    /// job hangs.
    pub(crate) fn stop(mut self) -> bool {
        let units: Vec<ObjectId> = self.units.keys().copied().collect();
        for id in units {
            let mut chore = Some(Chore::Take(id));
            while let Some(Chore::Take(id)) = chore {
                chore = self.step_take(id);
            }
        }
        self.ring_bells();
        self.jobs.stop(drop)
    }
}

/// Rights of whoever a unit was made for.
pub(crate) const OWNER: Rights = Rights::READ.union(Rights::WRITE).union(Rights::SHARE);

/// What an object's owner is charged with.
pub(crate) fn charge(object: &ObjectView) -> Account {
    Account {
        frames: object.frames,
        ports: u32::from(object.kind == ObjectKind::Port),
        ..Account::default()
    }
}

/// Bytes of a unit.
pub(crate) fn bytes_of(object: &ObjectView) -> u64 {
    u64::from(object.frames) * FRAME_BYTES as u64
}
