//! Jobs: units that are made, kept ready, broken and waited for, and what comes of it.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use libexo::abi::wire::{ErrorCode, PageKind};

use super::chores::Chore;
use super::{Answer, Cause, FdRef, Promised, State, Ticket, UnitState};
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
}

impl State {
    pub(super) fn post(
        &mut self,
        label: &'static str,
        work: impl FnOnce() -> Done + Send + 'static,
    ) {
        self.jobs_pending += 1;
        self.jobs.post(label, work);
    }

    pub(super) fn restock(&mut self) {
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

    pub(super) fn post_break(&mut self, id: ObjectId, unit: Unit) {
        self.post("break", move || {
            let mut revoked = unit.revoke();
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    pub(super) fn post_poll(&mut self, id: ObjectId, mut revoked: Revoked) {
        self.post("poll", move || {
            let returned = revoked.returned();
            Done::Revoked(id, revoked, returned)
        });
    }

    pub(super) fn finish(&mut self, done: Done) -> Option<Promised> {
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

    pub(super) fn made(
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
            tracing::info!(target: "exod::audit", object = id.raw(), frames, "pinned");
        }
        self.pinned.push((id, revoked));
        if !std::mem::replace(&mut self.pinned_polls, true) {
            self.at(Instant::now() + PIN_POLL, Chore::Pinned);
        }
    }
}
