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

/// How long exod waits before it tries again to make a ready unit, after the kernel had no memory.
const STOCK_RETRY: Duration = Duration::from_secs(1);

/// What a job did.
pub(crate) enum Done {
    Made(ObjectId, Ticket, Result<Unit, frames::Error>),
    Stocked(u32, Result<Unit, frames::Error>),
    Revoked(ObjectId, Revoked, Result<bool, frames::Error>),
    Looked(Ticket, [Option<u64>; 2]),
}

impl State {
    pub(super) fn post(&mut self, job: Job, work: impl FnOnce() -> Done + Send + 'static) {
        self.jobs_pending += 1;
        self.jobs.post(job, work);
    }

    pub(super) fn restock(&mut self) {
        for frames in self.pool.wanted() {
            let maker = self.maker.clone();
            self.post(Job::Stock, move || {
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
        self.post(Job::Make, move || {
            Done::Made(id, ticket, maker.make(frames, pages))
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
            Done::Made(id, ticket, made) => return Some((ticket, self.made(id, ticket, made))),
            Done::Stocked(_, Ok(unit)) => self.pool.put(unit),
            Done::Stocked(frames, Err(error)) => {
                tracing::warn!(%error, frames, "no unit can be kept ready");
                self.pool.failed(frames);
                self.at(Instant::now() + STOCK_RETRY, Chore::Stock);
            }
            Done::Looked(ticket, sent) => return Some((ticket, looked(sent))),
            Done::Revoked(id, _, Ok(true)) => self.released(id),
            Done::Revoked(id, revoked, returned) => self.still_pinned(id, revoked, returned),
        }
        None
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
