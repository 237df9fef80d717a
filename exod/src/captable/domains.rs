//! Domains: added, ended step by step, removed with their last charge.

#![forbid(unsafe_code)]

use super::intent::{Fields, Tx};
use super::layout::{Array, STATE, domain};
use super::table::{Lookup, Table};
use super::types::{DomainId, DomainInfo, DomainState, DomainView, Event, Progress, TableError};
use super::words::Words;

impl<W: Words> Table<W> {
    /// A new domain that holds nothing.
    pub fn add_domain(&mut self, info: DomainInfo) -> Result<DomainId, TableError> {
        let mut tx = self.tx();
        let slot = tx.take_slot(Array::Domains, DomainState::Live as u64);
        let (index, generation) = slot.ok_or(TableError::TableFull("domains"))?;
        let fields = [
            (domain::UID, u64::from(info.uid)),
            (domain::GID, u64::from(info.gid)),
            (domain::PID, u64::from(info.pid)),
            (domain::PID_START, info.pid_start),
            (domain::QUOTA_FRAMES, info.quota.frames),
            (domain::QUOTA_CAPS, u64::from(info.quota.capabilities)),
            (domain::QUOTA_PORTS, u64::from(info.quota.ports)),
        ];
        for (field, value) in fields {
            tx.set(Array::Domains, index, field, value);
        }
        tx.commit();
        Ok(DomainId::new(index, generation))
    }

    /// A domain, if it is still there.
    pub fn domain(&self, id: DomainId) -> Option<DomainView> {
        let now = self.now();
        now.domain_view(now.find_domain(id)?)
    }

    /// The domain in the next slot that has one, also when `after` is gone.
    pub fn next_domain(&self, after: Option<DomainId>) -> Option<DomainView> {
        let now = self.now();
        let first = after.map_or(0, DomainId::index).saturating_add(1);
        let mut slots = first..=now.used_max(Array::Domains);
        let index = slots.find(|index| now.taken(Array::Domains, *index))?;
        now.domain_view(index)
    }

    /// Ends a domain: it can be given nothing more. Call [`Table::death_step`] until it is done.
    /// Calling this twice is harmless.
    pub fn begin_death(&mut self, id: DomainId, events: &mut Vec<Event>) -> Result<(), TableError> {
        let index = self.now().find_domain(id).ok_or(TableError::NoSuchDomain)?;
        if self.now().domain_state(index) == Some(DomainState::Live) {
            let mut tx = self.tx();
            tx.set(Array::Domains, index, STATE, DomainState::Dying as u64);
            tx.settle_domain(index, events);
            tx.commit();
        }
        Ok(())
    }

    /// Drops up to `budget` capabilities of a domain that ends. What others derived from them stays
    /// theirs, and objects that others still hold stay charged to the dead domain: to take those
    /// back by force, walk [`Table::next_object_of`] with [`Table::revoke_object_step`].
    ///
    /// A domain that is gone is done; one whose death did not begin is refused.
    pub fn death_step(
        &mut self,
        id: DomainId,
        budget: u32,
        events: &mut Vec<Event>,
    ) -> Result<Progress, TableError> {
        for _ in 0..budget {
            let now = self.now();
            let Some(index) = now.find_domain(id) else {
                return Ok(Progress::Done);
            };
            if now.domain_state(index) == Some(DomainState::Live) {
                return Err(TableError::NoSuchDomain);
            }
            let first = now.link(Array::Domains, index, domain::FIRST_CAP);
            if first == 0 {
                return Ok(Progress::Done);
            }
            let mut tx = self.tx();
            tx.remove_cap(first, events);
            tx.commit();
        }
        Ok(Progress::More)
    }
}

impl<W: Words> Tx<'_, W> {
    /// A domain that can be given something.
    pub(super) fn live_domain(&self, id: DomainId) -> Result<u32, TableError> {
        let live = |index: &u32| self.domain_state(*index) == Some(DomainState::Live);
        self.find_domain(id)
            .filter(live)
            .ok_or(TableError::NoSuchDomain)
    }

    /// Moves an ending domain on, once it holds nothing, and away, once it is charged for nothing.
    pub(super) fn settle_domain(&mut self, index: u32, events: &mut Vec<Event>) {
        let ending = self.domain_state(index) != Some(DomainState::Live);
        if !ending || self.of(Array::Domains, index, domain::CAPS) != 0 {
            return;
        }
        if self.of(Array::Domains, index, domain::OBJECTS) != 0 {
            self.set(Array::Domains, index, STATE, DomainState::Dead as u64);
            return;
        }
        events.push(Event::DomainGone(self.domain_id(index)));
        self.free_slot(Array::Domains, index);
    }
}
