//! Everything that a request can change: table, frames, ports, accounts. No socket in it.
//!
//! Changes run through the capability table, which answers with events; [`State::settle`] makes
//! them true outside of it: a status word, a side that leaves, a unit that is broken. What takes
//! long is a job; what would walk far is a *chore*, done in steps between turns of the loop; what
//! has to wait is a chore with a time. So no call in here is long or sleeps, and there is one way
//! only for anything to end, whether it was dropped, left, revoked, or its holder was killed.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libexo::abi::status::Status;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, Rights};

use crate::accounts::{Account, Accounts};
use crate::bell::Bell;
use crate::captable::{DomainId, Event, Limits, ObjectId, ObjectView, Progress, Table};
use crate::config::Config;
use crate::frames::{self, FRAME_BYTES, Maker, Offer, Pool, Revoked, Unit};
use crate::jobs::Jobs;
use crate::ports::Ports;
use crate::status::StatusTable;

/// Table slots for capabilities: a word each in every session's status table.
const CAPABILITY_SLOTS: u32 = 1 << 16;

/// Table slots for objects.
const OBJECT_SLOTS: u32 = 1 << 14;

/// Steps of a chore before the loop looks at clients again: some tens of microseconds.
const CHORE_STEPS: u32 = 128;

/// How often frames that something pins are asked for.
const PIN_POLL: Duration = Duration::from_millis(250);

/// How long exod waits before it tries again to make a ready unit, after the kernel had no memory.
const STOCK_RETRY: Duration = Duration::from_secs(1);

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

/// Work that is done in steps, or later.
#[derive(Clone, Copy, Debug)]
enum Chore {
    /// Take everything from a domain that ended.
    Death(DomainId),
    /// Ask back what others still have of it.
    Orphans(DomainId, Option<ObjectId>),
    /// Ask each holder of an object.
    Ask(ObjectId, u64),
    /// Take an object from all its holders.
    Take(ObjectId),
    /// See whether pinned frames came back.
    Pinned,
    /// Make ready units again.
    Stock,
}

/// Why a capability went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its holder gave it back.
    Given,
    /// It was taken.
    Taken,
}

/// What a job did.
pub(crate) enum Done {
    Made(ObjectId, Ticket, Result<Unit, frames::Error>),
    Stocked(u32, Result<Unit, frames::Error>),
    Revoked(ObjectId, Revoked, Result<bool, frames::Error>),
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
    pub(crate) fn new(config: &Config, jobs: Jobs<Done>) -> Result<State, StartError> {
        let offer = frames::probe(config.pool.pages)?;
        for reason in &offer.reasons {
            tracing::warn!(pages = offer.page_kind.name(), "{reason}");
        }
        let stock: Vec<_> = config
            .pool
            .ready
            .0
            .iter()
            .map(|r| (r.frames, r.units))
            .collect();
        let limits = Limits {
            capabilities: CAPABILITY_SLOTS,
            objects: OBJECT_SLOTS,
            // Twice the sessions: a dead domain's record stays while a pin holds its frames.
            domains: 2 * config.sessions.0 + 1,
        };
        let mut state = State {
            table: Table::create(limits)?,
            ports: Ports::default(),
            units: HashMap::new(),
            domains: HashMap::new(),
            uses: HashMap::new(),
            accounts: Accounts::default(),
            maker: Arc::new(Maker::new(&offer)?),
            offer,
            pool: Pool::new(&stock),
            jobs,
            jobs_pending: 0,
            chores: VecDeque::new(),
            later: BTreeMap::new(),
            later_count: 0,
            news: Vec::new(),
            pinned: Vec::new(),
            pinned_polls: false,
            frames_max: u64::from(config.pool.frames.0),
            give_back_ms: config.give_back_ms,
            closes_pending: 0,
        };
        state.restock();
        Ok(state)
    }

    /// Frames that may still be granted to somebody.
    pub(crate) fn frames_free(&self) -> u64 {
        self.frames_max.saturating_sub(self.accounts.frames())
    }

    /// Jobs whose result has not come.
    pub(crate) fn jobs_pending(&self) -> u32 {
        self.jobs_pending
    }

    // --- what the loop calls each turn ---

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

    // --- domains ---

    fn live_mut(&mut self, id: DomainId) -> Option<&mut Live> {
        self.domains.get_mut(&id)?.live.as_mut()
    }

    pub(crate) fn admit(&mut self, id: DomainId, uid: u32, status: StatusTable, bell: Bell) {
        let live = Some(Live {
            status,
            bell,
            news: false,
        });
        self.domains.insert(id, Domain { uid, live });
    }

    /// A session ended: its domain holds nothing more.
    pub(crate) fn end_domain(&mut self, id: DomainId) {
        for port in self.ports.tapped_by(id) {
            self.set_tap(port, None);
        }
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.live = None;
        }
        let mut events = Vec::new();
        if let Err(error) = self.table.begin_death(id, &mut events) {
            tracing::error!(%error, domain = id.raw(), "a session's domain is not in the table");
            return;
        }
        self.settle(events, Cause::Given);
        self.step(Chore::Death(id));
    }

    /// Says how a capability is, and that there is news.
    pub(crate) fn tell(&mut self, id: DomainId, handle: u64, status: Status, deadline_ms: u16) {
        let Some(live) = self.domains.get_mut(&id).and_then(|d| d.live.as_mut()) else {
            return;
        };
        live.status.set(handle, status, deadline_ms);
        if !live.news {
            live.news = true;
            self.news.push(id);
        }
    }

    /// Says how a new capability is; its holder learns of it by the reply.
    pub(crate) fn introduce(&mut self, id: DomainId, handle: u64, status: Status) {
        let one = Account {
            capabilities: 1,
            ..Account::default()
        };
        if let Some(domain) = self.domains.get(&id) {
            self.accounts.add(domain.uid, one);
            if let Some(live) = &domain.live {
                live.status.set(handle, status, 0);
            }
        }
    }

    // --- events of the table ---

    /// Makes true outside of the table what a change made true in it.
    pub(crate) fn settle(&mut self, events: Vec<Event>, cause: Cause) {
        let mut line = VecDeque::from(events);
        while let Some(event) = line.pop_front() {
            match event {
                Event::CapGone { holder, handle, .. } => self.cap_gone(holder, handle, cause),
                Event::Unbind {
                    was_binding: true, ..
                } => {}
                Event::Unbind { object, .. } => self.unbind(object, &mut line),
                Event::DomainGone(id) => {
                    self.domains.remove(&id);
                }
            }
        }
    }

    fn cap_gone(&mut self, holder: DomainId, handle: u64, cause: Cause) {
        let Some(domain) = self.domains.get(&holder) else {
            return;
        };
        let one = Account {
            capabilities: 1,
            ..Account::default()
        };
        self.accounts.subtract(domain.uid, one);
        match (cause, &domain.live) {
            (Cause::Taken, Some(live)) => {
                live.status.count_loss();
                self.tell(holder, handle, Status::LOST, 0);
                tracing::info!(target: "exod::audit", domain = holder.raw(), handle, "taken back");
            }
            (Cause::Given, Some(live)) => live.status.set(handle, Status::empty(), 0),
            (_, None) => {}
        }
    }

    fn unbind(&mut self, object: ObjectView, line: &mut VecDeque<Event>) {
        match object.kind {
            ObjectKind::Unit => {
                if let Some(state) = self.units.remove(&object.id) {
                    self.post_break(object.id, state.unit);
                }
            }
            ObjectKind::Port => {
                self.leave(object.id, line);
                self.release(object.id, line);
            }
        }
    }

    /// Ends a side: the peer is told, and what this side got from it goes.
    fn leave(&mut self, object: ObjectId, line: &mut VecDeque<Event>) {
        let Some((side, peer)) = self.ports.leave(object) else {
            return;
        };
        for unit in side.segments {
            self.unuse(unit);
        }
        let mut events = Vec::new();
        for handle in side.given.into_iter().filter(|handle| *handle != 0) {
            // Given back before, or taken: then there is nothing to do.
            let _ = self.table.drop_cap(side.domain, handle, &mut events);
        }
        line.extend(events);
        if let Some(peer) = peer {
            self.tell_side(peer);
        }
    }

    fn unuse(&mut self, unit: u64) {
        if let Some(count) = self.uses.get_mut(&unit) {
            *count -= 1;
            if *count == 0 {
                self.uses.remove(&unit);
            }
        }
    }

    /// Writes the status word of a port's side anew.
    pub(crate) fn tell_side(&mut self, object: ObjectId) {
        let found = self.ports.side(object).and_then(|side| {
            let status = self.ports.port(side.port)?.status(side.number);
            Some((side.domain, side.handle, status))
        });
        if let Some((domain, handle, status)) = found {
            self.tell(domain, handle, status, 0);
        }
    }

    /// Begins or ends a tap.
    pub(crate) fn set_tap(&mut self, port: u64, by: Option<DomainId>) {
        for side in self.ports.tap(port, by) {
            self.tell_side(side);
        }
    }

    /// An object is no more: nobody is charged for it.
    fn release(&mut self, id: ObjectId, line: &mut VecDeque<Event>) {
        let Some(object) = self.table.object(id) else {
            return;
        };
        let mut events = Vec::new();
        if let Err(error) = self.table.object_released(id, &mut events) {
            tracing::error!(%error, object = id.raw(), "an object cannot be released");
            return;
        }
        if let Some(owner) = self.domains.get(&object.owner) {
            self.accounts.subtract(owner.uid, charge(&object));
        }
        line.extend(events);
    }

    fn released(&mut self, id: ObjectId) {
        let mut line = VecDeque::new();
        self.release(id, &mut line);
        self.settle(line.into(), Cause::Given);
    }

    // --- chores ---

    fn at(&mut self, when: Instant, chore: Chore) {
        self.later_count += 1;
        self.later.insert((when, self.later_count), chore);
    }

    /// Asks all holders of an object to give it back, and takes it when they do not.
    pub(crate) fn ask_back(&mut self, id: ObjectId) {
        let Some(unit) = self.units.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut unit.asked_back, true) {
            self.chores.push_back(Chore::Ask(id, 0));
            let deadline = Duration::from_millis(u64::from(self.give_back_ms));
            self.at(Instant::now() + deadline, Chore::Take(id));
        }
    }

    fn step(&mut self, chore: Chore) {
        let next = match chore {
            Chore::Death(id) => self.step_death(id),
            Chore::Orphans(id, after) => self.step_orphans(id, after),
            Chore::Ask(id, after) => self.step_ask(id, after),
            Chore::Take(id) => self.step_take(id),
            Chore::Pinned => {
                self.pinned_polls = false;
                for (id, revoked) in std::mem::take(&mut self.pinned) {
                    self.post_poll(id, revoked);
                }
                None
            }
            Chore::Stock => {
                self.restock();
                None
            }
        };
        self.chores.extend(next);
    }

    fn step_death(&mut self, id: DomainId) -> Option<Chore> {
        let mut events = Vec::new();
        let progress = self.table.death_step(id, CHORE_STEPS, &mut events);
        self.settle(events, Cause::Given);
        match progress {
            Ok(Progress::More) => Some(Chore::Death(id)),
            Ok(Progress::Done) => Some(Chore::Orphans(id, None)),
            // It is gone already: nothing was charged to it.
            Err(_) => None,
        }
    }

    fn step_orphans(&mut self, id: DomainId, after: Option<ObjectId>) -> Option<Chore> {
        // The one that came last may be gone by now; those already asked are not asked again.
        let mut after = after.filter(|id| self.table.object(*id).is_some());
        for _ in 0..CHORE_STEPS {
            let object = self.table.next_object_of(id, after)?;
            after = Some(object.id);
            if object.holders > 0 {
                self.ask_back(object.id);
            }
        }
        Some(Chore::Orphans(id, after))
    }

    fn step_ask(&mut self, id: ObjectId, after: u64) -> Option<Chore> {
        let mut after = after;
        for _ in 0..CHORE_STEPS {
            // A holder that went while we walked ends the walk; the deadline still stands.
            let cap = self.table.next_holder(id, after).ok()??;
            after = cap.handle;
            let status = Status::LIVE | Status::ASKED_BACK;
            self.tell(cap.holder, cap.handle, status, self.give_back_ms);
        }
        Some(Chore::Ask(id, after))
    }

    fn step_take(&mut self, id: ObjectId) -> Option<Chore> {
        let mut events = Vec::new();
        let progress = self.table.revoke_object_step(id, CHORE_STEPS, &mut events);
        self.settle(events, Cause::Taken);
        match progress {
            Ok(Progress::More) => Some(Chore::Take(id)),
            // Done, or everybody gave it back before.
            Ok(Progress::Done) | Err(_) => None,
        }
    }

    // --- jobs ---

    fn post(&mut self, label: &'static str, work: impl FnOnce() -> Done + Send + 'static) {
        self.jobs_pending += 1;
        self.jobs.post(label, work);
    }

    fn restock(&mut self) {
        for frames in self.pool.wanted() {
            let maker = self.maker.clone();
            self.post("stock", move || {
                Done::Stocked(frames, maker.make(frames, None))
            });
        }
    }

    /// A ready unit, without a system call; another one is ordered.
    pub(crate) fn take_ready(&mut self, frames: u32) -> Option<Unit> {
        let unit = self.pool.take(frames);
        self.restock();
        unit
    }

    pub(crate) fn post_make(
        &mut self,
        id: ObjectId,
        ticket: Ticket,
        frames: u32,
        pages: Option<PageKind>,
    ) {
        let maker = self.maker.clone();
        self.post("make", move || {
            Done::Made(id, ticket, maker.make(frames, pages))
        });
    }

    fn post_break(&mut self, id: ObjectId, unit: Unit) {
        self.post("break", move || {
            let mut revoked = unit.revoke();
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    fn post_poll(&mut self, id: ObjectId, mut revoked: Revoked) {
        self.post("poll", move || {
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    fn finish(&mut self, done: Done) -> Option<Promised> {
        self.jobs_pending -= 1;
        match done {
            Done::Made(id, ticket, made) => return Some((ticket, self.made(id, made))),
            Done::Stocked(_, Ok(unit)) => self.pool.put(unit),
            Done::Stocked(frames, Err(error)) => {
                tracing::warn!(%error, frames, "no unit can be kept ready");
                self.pool.failed(frames);
                self.at(Instant::now() + STOCK_RETRY, Chore::Stock);
            }
            Done::Revoked(id, _, Ok(true)) => self.released(id),
            Done::Revoked(id, revoked, returned) => self.still_pinned(id, revoked, returned),
        }
        None
    }

    fn made(
        &mut self,
        id: ObjectId,
        made: Result<Unit, frames::Error>,
    ) -> Result<Answer, ErrorCode> {
        let root = self.table.next_holder(id, 0).ok().flatten();
        match (made, root) {
            (Ok(unit), Some(root)) if self.table.object_bound(id).is_ok() => {
                Ok(self.bind(id, root.handle, unit))
            }
            (Ok(unit), _) => {
                // Its holder dropped it or died meanwhile.
                self.post_break(id, unit);
                Err(ErrorCode::Revoked)
            }
            (Err(error), root) => {
                tracing::warn!(%error, "a unit cannot be made");
                if let Some(root) = root {
                    let mut events = Vec::new();
                    let _ = self.table.drop_cap(root.holder, root.handle, &mut events);
                    self.settle(events, Cause::Given);
                }
                self.released(id);
                Err(self.refusal(&error))
            }
        }
    }

    fn refusal(&self, error: &frames::Error) -> ErrorCode {
        match error {
            frames::Error::Size(_) => ErrorCode::Malformed,
            frames::Error::NoPages { kind, .. } if *kind != self.offer.page_kind => {
                ErrorCode::Unsupported
            }
            frames::Error::NoPages { .. } => ErrorCode::NoFrames,
            _ => ErrorCode::Kernel,
        }
    }

    /// A unit is there for its owner.
    pub(crate) fn bind(&mut self, id: ObjectId, root: u64, unit: Unit) -> Answer {
        let vals = [
            unit.bytes() as u64,
            unit.page_kind() as u64,
            unit.protection() as u64,
            0,
            0,
            0,
        ];
        let state = UnitState {
            unit,
            root,
            was_segment: false,
            asked_back: false,
        };
        self.units.insert(id, state);
        Answer {
            handle: root,
            vals,
            fds: vec![FdRef::Writer(id)],
        }
    }

    fn still_pinned(
        &mut self,
        id: ObjectId,
        revoked: Revoked,
        returned: Result<bool, frames::Error>,
    ) {
        if let Err(error) = returned {
            tracing::error!(%error, object = id.raw(), "frames cannot be taken back yet");
        }
        // Refused only where it is pinned already.
        if self.table.object_pinned(id).is_ok() {
            let frames = revoked.frames();
            tracing::info!(target: "exod::audit", object = id.raw(), frames, "pinned");
        }
        self.pinned.push((id, revoked));
        if !std::mem::replace(&mut self.pinned_polls, true) {
            self.at(Instant::now() + PIN_POLL, Chore::Pinned);
        }
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
