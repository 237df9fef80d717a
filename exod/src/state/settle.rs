//! What a change in the table means outside of it: status words, sides that leave, charges.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use libexo::abi::status::Status;
use libexo::abi::wire::ObjectKind;

use super::chores::Chore;
use super::{Cause, Domain, Live, State, charge};
use crate::accounts::Account;
use crate::audit::Subject;
use crate::bell::Bell;
use crate::book::Tally;
use crate::captable::{DomainId, Event, ObjectId, ObjectView};
use crate::status::StatusTable;

impl State {
    pub(super) fn live_mut(&mut self, id: DomainId) -> Option<&mut Live> {
        self.domains.get_mut(&id)?.live.as_mut()
    }

    pub(crate) fn admit(
        &mut self,
        id: DomainId,
        tally: Arc<Tally>,
        status: StatusTable,
        bell: Bell,
    ) {
        let live = Some(Live {
            status,
            bell,
            news: false,
        });
        let uid = tally.who.uid;
        self.domains.insert(id, Domain { uid, tally, live });
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

    pub(super) fn cap_gone(&mut self, holder: DomainId, handle: u64, cause: Cause) {
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
                self.book.lost(&domain.tally, holder.raw(), handle);
                self.tell(holder, handle, Status::LOST, 0);
            }
            (Cause::Given, Some(live)) => live.status.set(handle, Status::empty(), 0),
            (_, None) => {}
        }
    }

    pub(super) fn unbind(&mut self, object: ObjectView, line: &mut VecDeque<Event>) {
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
    pub(super) fn leave(&mut self, object: ObjectId, line: &mut VecDeque<Event>) {
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

    pub(super) fn unuse(&mut self, unit: u64) {
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

    /// Who is charged for an object, for the audit trail.
    pub(super) fn owner_of(&self, id: ObjectId) -> Subject {
        let owner = self.table.object(id).map(|object| object.owner);
        let owner = owner.and_then(|owner| Some((owner, self.domains.get(&owner)?)));
        owner.map_or(Subject::default(), |(id, domain)| {
            domain.tally.subject(id.raw(), 0)
        })
    }

    /// An object is no more: nobody is charged for it.
    pub(super) fn release(&mut self, id: ObjectId, line: &mut VecDeque<Event>) {
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

    pub(super) fn released(&mut self, id: ObjectId) {
        let mut line = VecDeque::new();
        self.release(id, &mut line);
        self.settle(line.into(), Cause::Given);
    }
}
