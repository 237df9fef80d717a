//! Objects: charged to their maker from before they are bound until after they are unbound.

#![forbid(unsafe_code)]

use libexo::abi::wire::{ObjectKind, Rights};

use super::intent::{Fields, Tx};
use super::layout::{Array, STATE, domain, header, object};
use super::lists::OWNED;
use super::table::{Lookup, Table};
use super::types::{DomainId, Event, NewObject, ObjectId, ObjectState, ObjectView, TableError};
use super::words::Words;

impl<W: Words> Table<W> {
    /// A new object, charged to `domain`, and the first capability on it, which `domain` holds.
    pub fn add_object(
        &mut self,
        domain: DomainId,
        new: NewObject,
        rights: Rights,
    ) -> Result<(ObjectId, u64), TableError> {
        let state = if new.bound {
            ObjectState::Bound
        } else {
            ObjectState::Binding
        };
        let mut tx = self.tx();
        let owner = tx.live_domain(domain)?;
        tx.charge(owner, &new)?;
        let slot = tx.take_slot(Array::Objects, state as u64);
        let (index, generation) = slot.ok_or(TableError::TableFull("objects"))?;
        let fields = [
            (object::KIND, new.kind as u64),
            (object::PAGE, new.page.map_or(0, |page| page as u64)),
            (object::FRAMES, u64::from(new.frames)),
            (object::TAG, new.tag),
        ];
        for (field, value) in fields {
            tx.set(Array::Objects, index, field, value);
        }
        tx.push_front(OWNED, owner, index);
        tx.count_object(state, i64::from(new.frames), 1);
        let handle = tx.add_cap(index, owner, rights)?;
        tx.commit();
        Ok((ObjectId::new(index, generation), handle))
    }

    /// An object, if it is still there.
    pub fn object(&self, id: ObjectId) -> Option<ObjectView> {
        let now = self.now();
        now.object_view(now.find_object(id)?)
    }

    /// The object in the next slot that has one, also when `after` is gone.
    pub fn next_object(&self, after: Option<ObjectId>) -> Option<ObjectView> {
        let now = self.now();
        let first = after.map_or(0, ObjectId::index).saturating_add(1);
        let mut slots = first..=now.used_max(Array::Objects);
        let index = slots.find(|index| now.taken(Array::Objects, *index))?;
        now.object_view(index)
    }

    /// The next object that `owner` is charged for, newest first. Nothing after an object that is
    /// gone or another domain's: begin anew then.
    pub fn next_object_of(&self, owner: DomainId, after: Option<ObjectId>) -> Option<ObjectView> {
        let now = self.now();
        let owner = now.find_domain(owner)?;
        let next = match after {
            None => now.link(Array::Domains, owner, domain::FIRST_OBJECT),
            Some(id) => {
                let index = now.find_object(id)?;
                if now.link(Array::Objects, index, object::OWNER) != owner {
                    return None;
                }
                now.link(Array::Objects, index, object::NEXT_OWNED)
            }
        };
        if next == 0 {
            None
        } else {
            now.object_view(next)
        }
    }

    /// Changes the caller's own word.
    pub fn set_tag(&mut self, id: ObjectId, tag: u64) -> Result<(), TableError> {
        let mut tx = self.tx();
        let index = tx.find_object(id).ok_or(TableError::NoSuchObject)?;
        tx.set(Array::Objects, index, object::TAG, tag);
        tx.commit();
        Ok(())
    }

    /// The object can be used now. Refused with [`ObjectState::Unbinding`] when all its holders
    /// left meanwhile.
    pub fn object_bound(&mut self, id: ObjectId) -> Result<(), TableError> {
        self.advance(id, &[ObjectState::Binding], ObjectState::Bound)
    }

    /// The object was taken apart, but its frames did not come back yet.
    pub fn object_pinned(&mut self, id: ObjectId) -> Result<(), TableError> {
        self.advance(id, &[ObjectState::Unbinding], ObjectState::Pinned)
    }

    fn advance(
        &mut self,
        id: ObjectId,
        from: &[ObjectState],
        to: ObjectState,
    ) -> Result<(), TableError> {
        let mut tx = self.tx();
        let index = tx.expect_object(id, from)?;
        tx.move_object(index, to);
        tx.commit();
        Ok(())
    }

    /// The object is gone for real: its owner is no longer charged. A dead owner's record goes
    /// with its last charge.
    pub fn object_released(
        &mut self,
        id: ObjectId,
        events: &mut Vec<Event>,
    ) -> Result<(), TableError> {
        let mut tx = self.tx();
        let index = tx.expect_object(id, &[ObjectState::Unbinding, ObjectState::Pinned])?;
        tx.release(index, events);
        tx.commit();
        Ok(())
    }
}

impl<W: Words> Tx<'_, W> {
    fn expect_object(&self, id: ObjectId, states: &[ObjectState]) -> Result<u32, TableError> {
        let index = self.find_object(id).ok_or(TableError::NoSuchObject)?;
        match self.object_state(index) {
            Some(state) if states.contains(&state) => Ok(index),
            Some(state) => Err(TableError::WrongState(state)),
            None => Err(TableError::NoSuchObject),
        }
    }

    fn charge(&mut self, owner: u32, new: &NewObject) -> Result<(), TableError> {
        let get = |field| self.of(Array::Domains, owner, field);
        let left = get(domain::QUOTA_FRAMES).saturating_sub(get(domain::FRAMES));
        if u64::from(new.frames) > left {
            return Err(TableError::QuotaExceeded("frames"));
        }
        let port = new.kind == ObjectKind::Port;
        if port && get(domain::PORTS) >= get(domain::QUOTA_PORTS) {
            return Err(TableError::QuotaExceeded("ports"));
        }
        self.add(Array::Domains, owner, domain::FRAMES, i64::from(new.frames));
        self.add(Array::Domains, owner, domain::PORTS, i64::from(port));
        Ok(())
    }

    fn release(&mut self, index: u32, events: &mut Vec<Event>) {
        let frames = self.of(Array::Objects, index, object::FRAMES) as i64;
        let port = self.of(Array::Objects, index, object::KIND) == ObjectKind::Port as u64;
        if let Some(state) = self.object_state(index) {
            self.count_object(state, -frames, -1);
        }
        let owner = self.unlink(OWNED, index);
        self.add(Array::Domains, owner, domain::FRAMES, -frames);
        self.add(Array::Domains, owner, domain::PORTS, -i64::from(port));
        self.free_slot(Array::Objects, index);
        self.settle_domain(owner, events);
    }

    pub(super) fn move_object(&mut self, index: u32, to: ObjectState) {
        let frames = self.of(Array::Objects, index, object::FRAMES) as i64;
        if let Some(from) = self.object_state(index) {
            self.count_object(from, -frames, -1);
        }
        self.count_object(to, frames, 1);
        self.set(Array::Objects, index, STATE, to as u64);
    }

    fn count_object(&mut self, state: ObjectState, frames: i64, objects: i64) {
        self.add_head(header::objects(state as u64), objects);
        self.add_head(header::frames(state as u64), frames);
    }

    /// The last holder left: the caller has to take the object apart.
    pub(super) fn unbind(&mut self, index: u32, events: &mut Vec<Event>) {
        let was_binding = self.object_state(index) == Some(ObjectState::Binding);
        self.move_object(index, ObjectState::Unbinding);
        if let Some(object) = self.object_view(index) {
            events.push(Event::Unbind {
                object,
                was_binding,
            });
        }
    }
}
