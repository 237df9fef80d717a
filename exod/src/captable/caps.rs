//! Capabilities: checked, given, dropped, listed.

#![forbid(unsafe_code)]

use libexo::abi::status;
use libexo::abi::wire::{ErrorCode, ObjectKind, Rights};

use super::intent::{Fields, Tx};
use super::layout::{Array, GENERATION, STATE, cap, domain, object};
use super::lists::{CHILDREN, HELD, HOLDERS};
use super::table::{Lookup, Table};
use super::types::{CapView, DomainId, Event, ObjectId, ObjectState, TableError};
use super::words::Words;

impl<W: Words> Table<W> {
    /// The one question on which everything rests: may `domain` do this with what it calls
    /// `handle`? A few loads, whatever the table holds. `kind: None` takes every kind.
    ///
    /// A binding object passes: whoever needs a bound one looks at the view's state.
    pub fn check(
        &self,
        domain: DomainId,
        handle: u64,
        needed: Rights,
        kind: Option<ObjectKind>,
    ) -> Result<CapView, ErrorCode> {
        let now = self.now();
        let view = now
            .find_held(domain, handle)
            .and_then(|(_, index)| now.cap_view(index));
        let view = view.ok_or(ErrorCode::NoSuchHandle)?;
        if kind.is_some_and(|kind| kind != view.object.kind) {
            return Err(ErrorCode::WrongKind);
        }
        if !view.rights.contains(needed) {
            return Err(ErrorCode::Rights);
        }
        Ok(view)
    }

    /// Gives `to` (which may be `domain` itself) a capability on the same object, with a subset of
    /// the rights, as a child of `handle`.
    pub fn derive(
        &mut self,
        domain: DomainId,
        handle: u64,
        to: DomainId,
        rights: Rights,
    ) -> Result<u64, TableError> {
        let mut tx = self.tx();
        let (_, parent) = tx
            .find_held(domain, handle)
            .ok_or(TableError::NoSuchHandle)?;
        if !tx.rights(parent).contains(rights) {
            return Err(TableError::Rights);
        }
        let holder = tx.live_domain(to)?;
        let object = tx.link(Array::Caps, parent, cap::OBJECT);
        let child = tx.add_cap(object, holder, rights)?;
        tx.push_front(CHILDREN, parent, status::split_handle(child).0);
        tx.commit();
        Ok(child)
    }

    /// Gives `to` a capability that no domain can revoke: exod itself is the giver.
    pub fn grant(
        &mut self,
        object: ObjectId,
        to: DomainId,
        rights: Rights,
    ) -> Result<u64, TableError> {
        let mut tx = self.tx();
        let object = tx.find_object(object).ok_or(TableError::NoSuchObject)?;
        match tx.object_state(object) {
            Some(ObjectState::Binding | ObjectState::Bound) => {}
            Some(state) => return Err(TableError::WrongState(state)),
            None => return Err(TableError::NoSuchObject),
        }
        let holder = tx.live_domain(to)?;
        let handle = tx.add_cap(object, holder, rights)?;
        tx.commit();
        Ok(handle)
    }

    /// Gives a capability back. What was derived from it stays, under its own parent.
    pub fn drop_cap(
        &mut self,
        domain: DomainId,
        handle: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), TableError> {
        let mut tx = self.tx();
        let (_, index) = tx
            .find_held(domain, handle)
            .ok_or(TableError::NoSuchHandle)?;
        tx.remove_cap(index, events);
        tx.commit();
        Ok(())
    }

    /// The next capability of a domain after `after`, or the first after zero: newest first, so
    /// that a listing meets everything that was there when it began and is still there.
    pub fn next_cap(&self, domain: DomainId, after: u64) -> Result<Option<CapView>, TableError> {
        let now = self.now();
        let next = if after == 0 {
            let domain = now.find_domain(domain).ok_or(TableError::NoSuchDomain)?;
            now.link(Array::Domains, domain, domain::FIRST_CAP)
        } else {
            let (_, index) = now
                .find_held(domain, after)
                .ok_or(TableError::NoSuchHandle)?;
            now.link(Array::Caps, index, cap::NEXT_HELD)
        };
        Ok(if next == 0 { None } else { now.cap_view(next) })
    }

    /// The next capability on an object, likewise, whoever holds it.
    pub fn next_holder(&self, object: ObjectId, after: u64) -> Result<Option<CapView>, TableError> {
        let now = self.now();
        let object = now.find_object(object).ok_or(TableError::NoSuchObject)?;
        let next = if after == 0 {
            now.link(Array::Objects, object, object::FIRST_CAP)
        } else {
            let index = now.find_live(after).ok_or(TableError::NoSuchHandle)?;
            if now.link(Array::Caps, index, cap::OBJECT) != object {
                return Err(TableError::NoSuchHandle);
            }
            now.link(Array::Caps, index, cap::NEXT_OF_OBJECT)
        };
        Ok(if next == 0 { None } else { now.cap_view(next) })
    }
}

/// Looking capabilities up, in the table and in a transaction.
pub(super) trait CapLookup: Lookup {
    /// The slot of a capability that somebody holds.
    fn find_live(&self, handle: u64) -> Option<u32> {
        let index = self.find(Array::Caps, status::split_handle(handle))?;
        (self.of(Array::Caps, index, STATE) == cap::LIVE).then_some(index)
    }

    /// The slots of `domain` and of the capability that it calls `handle`.
    fn find_held(&self, domain: DomainId, handle: u64) -> Option<(u32, u32)> {
        let domain = self.find_domain(domain)?;
        let index = self.find_live(handle)?;
        (self.link(Array::Caps, index, cap::HOLDER) == domain).then_some((domain, index))
    }

    fn rights(&self, index: u32) -> Rights {
        Rights::from_bits_truncate(self.of(Array::Caps, index, cap::RIGHTS) as u32)
    }

    fn handle(&self, index: u32) -> u64 {
        status::handle(index, self.link(Array::Caps, index, GENERATION))
    }

    fn cap_view(&self, index: u32) -> Option<CapView> {
        Some(CapView {
            handle: self.handle(index),
            holder: self.domain_id(self.link(Array::Caps, index, cap::HOLDER)),
            rights: self.rights(index),
            object: self.object_view(self.link(Array::Caps, index, cap::OBJECT))?,
        })
    }
}

impl<T: Lookup> CapLookup for T {}

impl<W: Words> Tx<'_, W> {
    /// A root capability on `object` for `holder`.
    pub(super) fn add_cap(
        &mut self,
        object: u32,
        holder: u32,
        rights: Rights,
    ) -> Result<u64, TableError> {
        let get = |field| self.of(Array::Domains, holder, field);
        if get(domain::CAPS) >= get(domain::QUOTA_CAPS) {
            return Err(TableError::QuotaExceeded("capabilities"));
        }
        let slot = self.take_slot(Array::Caps, cap::LIVE);
        let (index, generation) = slot.ok_or(TableError::TableFull("capabilities"))?;
        self.set_link(
            Array::Caps,
            index,
            cap::RIGHTS,
            rights.bits() & Rights::all().bits(),
        );
        self.push_front(HELD, holder, index);
        self.push_front(HOLDERS, object, index);
        Ok(status::handle(index, generation))
    }
}

// Rights share a word with the generation and the state.
const _: () = assert!(Rights::all().bits() < 1 << 24);
