//! Jobs: units that are made, kept ready, broken and waited for, and what comes of it.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libexo::abi::counters::Job;
use libexo::abi::wire::{ErrorCode, PageKind};
use rustix::time::{ClockId, clock_gettime};

use super::chores::Chore;
use super::{Answer, Cause, FdRef, Promised, State, Ticket, UnitState};
use crate::audit::What;
use crate::captable::ObjectId;
use crate::frames::{self, Revoked, Unit};

/// How often frames that something pins are asked for.
const PIN_POLL: Duration = Duration::from_millis(250);

/// How long exod leaves the kernel alone after it had no memory for a ready unit, whoever asks.
const STOCK_PAUSE: Duration = Duration::from_secs(1);

/// Ready units that are made at a time. What a client waits for comes after so many, not after the
/// whole stock.
const STOCK_ORDERS_MAX: usize = 4;

/// A unit that a client waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) id: ObjectId,
    pub(crate) ticket: Ticket,
    pub(crate) frames: u32,
    pub(crate) pages: Option<PageKind>,
}

/// What a job did.
pub(crate) enum Done {
    Made(Order, Result<Unit, frames::Error>),
    Stocked(u32, Result<Unit, frames::Error>),
    Discarded,
    Revoked(ObjectId, Revoked, Result<bool, frames::Error>),
    Looked(Ticket, [Option<u64>; 2]),
}

/// Memory that is short, or still coming.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// The kernel's pool of hugepages is being raised, so that what is missing now may come.
    coming: bool,
    /// Orders that wait for it.
    waiting: Vec<Order>,
    /// The last ready unit that was ordered could not be made, at that time.
    since: Option<Instant>,
    /// The log has it, until the stock is complete again.
    told: bool,
}

impl State {
    pub(super) fn post(&mut self, job: Job, work: impl FnOnce() -> Done + Send + 'static) {
        self.jobs_pending += 1;
        self.jobs.post(job, work);
    }

    /// Orders what the stock lacks. After a failure this waits for an event: memory that came
    /// back, or, after a pause, a client who takes a unit or a ping of the watchdog. No clock of
    /// its own wakes exod for it.
    pub(crate) fn restock(&mut self) {
        let pause = |since: Instant| since.elapsed() < STOCK_PAUSE;
        if self.shortage.since.is_some_and(pause) {
            return;
        }
        for frames in self.pool.wanted(STOCK_ORDERS_MAX) {
            let maker = self.maker.clone();
            self.post(Job::Stock, move || {
                Done::Stocked(frames, maker.make(frames, None))
            });
        }
    }

    /// Memory came back, or was added: what was short may be there now.
    pub(super) fn memory_came(&mut self) {
        let (ready, wanted) = self.pool.stock();
        self.shortage.told &= ready < wanted;
        self.shortage.since = None;
        self.restock();
    }

    /// The kernel's pool is being raised until this is called with false. Meanwhile nobody is
    /// refused for want of pages.
    pub(crate) fn pages_are_coming(&mut self, coming: bool) {
        self.shortage.coming = coming;
        for order in std::mem::take(&mut self.shortage.waiting) {
            self.post_make(order);
        }
        self.memory_came();
    }

    /// Wants another stock from here on.
    pub(crate) fn retarget(&mut self, stock: &[(u32, usize)]) {
        let surplus = self.pool.retarget(stock);
        if !surplus.is_empty() {
            self.post(Job::Discard, move || {
                drop(surplus);
                Done::Discarded
            });
        }
        self.memory_came();
    }

    /// A ready unit, without a system call; another one is ordered.
    pub(crate) fn take_ready(&mut self, frames: u32) -> Option<Unit> {
        let unit = self.pool.take(frames);
        self.restock();
        unit
    }

    pub(crate) fn post_make(&mut self, order: Order) {
        let maker = self.maker.clone();
        self.post(Job::Make, move || {
            Done::Made(order, maker.make(order.frames, order.pages))
        });
    }

    pub(super) fn post_break(&mut self, id: ObjectId, unit: Unit) {
        self.post(Job::Break, move || {
            let mut revoked = unit.revoke();
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    pub(super) fn post_poll(&mut self, id: ObjectId, mut revoked: Revoked) {
        self.post(Job::Poll, move || {
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    pub(crate) fn post_look(&mut self, look: impl FnOnce() -> Done + Send + 'static) {
        self.post(Job::Look, look);
    }

    /// A unit's file for a job that reads it; none when it is gone.
    pub(crate) fn reader_of(&self, id: ObjectId) -> Option<OwnedFd> {
        let unit = self.units.get(&id)?;
        unit.unit.peer_fd().try_clone_to_owned().ok()
    }

    pub(super) fn finish(&mut self, done: Done) -> Option<Promised> {
        self.jobs_pending -= 1;
        match done {
            Done::Made(order, Err(frames::Error::NoPages { .. })) if self.shortage.coming => {
                self.shortage.waiting.push(order);
            }
            Done::Made(order, made) => {
                return Some((order.ticket, self.made(order.id, order.ticket, made)));
            }
            Done::Stocked(_, Ok(unit)) => {
                self.pool.put(unit);
                self.memory_came();
            }
            Done::Stocked(frames, Err(error)) => {
                self.pool.failed(frames);
                self.stock_failed(frames, &error);
            }
            Done::Looked(ticket, sent) => return Some((ticket, looked(sent))),
            Done::Discarded => self.memory_came(),
            Done::Revoked(id, _, Ok(true)) => {
                self.released(id);
                self.memory_came();
            }
            Done::Revoked(id, revoked, returned) => self.still_pinned(id, revoked, returned),
        }
        None
    }

    fn stock_failed(&mut self, frames: u32, error: &frames::Error) {
        self.shortage.since = Some(Instant::now());
        if !self.shortage.coming && !std::mem::replace(&mut self.shortage.told, true) {
            tracing::warn!(
                "the stock of ready units of {frames} frames cannot be completed: {error}"
            );
        }
    }

    pub(super) fn made(
        &mut self,
        id: ObjectId,
        ticket: Ticket,
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
                let Ticket { session, place } = ticket;
                tracing::warn!(session, request = place + 1, %error, "a unit cannot be made");
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

    pub(super) fn refusal(&self, error: &frames::Error) -> ErrorCode {
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

    pub(super) fn still_pinned(
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
            let object = id.raw();
            tracing::info!(target: "exod::audit", object, frames, "pinned");
            let subject = self.owner_of(id);
            self.book
                .note(subject, None, What::Pinned { object, frames });
        }
        self.pinned.push((id, revoked));
        if !std::mem::replace(&mut self.pinned_polls, true) {
            self.at(Instant::now() + PIN_POLL, Chore::Pinned);
        }
    }
}

/// The answer about a port's rings, as they were just now.
fn looked(sent: [Option<u64>; 2]) -> Result<Answer, ErrorCode> {
    let [one, other] = sent.map(|sent| sent.unwrap_or(0));
    let now = clock_gettime(ClockId::Monotonic);
    let now_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    Ok(Answer {
        vals: [one, other, now_ns, 0, 0, 0],
        ..Answer::default()
    })
}
