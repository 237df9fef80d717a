//! Walks that are done in steps between turns of the loop, and what has to wait for its time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use libexo::abi::status::Status;

use super::{Cause, State};
use crate::captable::{DomainId, ObjectId, Progress};

/// Steps of a chore before the loop looks at clients again: some tens of microseconds.
const CHORE_STEPS: u32 = 128;

/// Work that is done in steps, or later.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chore {
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
}

impl State {
    pub(super) fn at(&mut self, when: Instant, chore: Chore) {
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

    pub(super) fn step(&mut self, chore: Chore) {
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
        };
        self.chores.extend(next);
    }

    pub(super) fn step_death(&mut self, id: DomainId) -> Option<Chore> {
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

    pub(super) fn step_orphans(&mut self, id: DomainId, after: Option<ObjectId>) -> Option<Chore> {
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

    pub(super) fn step_ask(&mut self, id: ObjectId, after: u64) -> Option<Chore> {
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

    pub(super) fn step_take(&mut self, id: ObjectId) -> Option<Chore> {
        let mut events = Vec::new();
        let progress = self.table.revoke_object_step(id, CHORE_STEPS, &mut events);
        self.settle(events, Cause::Taken);
        match progress {
            Ok(Progress::More) => Some(Chore::Take(id)),
            // Done, or everybody gave it back before.
            Ok(Progress::Done) | Err(_) => None,
        }
    }
}
