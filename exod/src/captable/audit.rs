//! The audit: every invariant of the table, checked against words that may hold anything.
//!
//! It reads everything and trusts nothing: an index is checked before it is followed, each slot is
//! visited once by each structure that it may be in, and what was visited is counted against what
//! the records say. So it ends, whatever it reads, and what it lets pass can be worked on without
//! further checks.
//!
//! That holder lists, object lists and child lists visit each member once, and together visit as
//! many as there are, makes them exact partitions; that the walk from the roots of the forest meets
//! every node excludes cycles.

#![forbid(unsafe_code)]

use libexo::abi::wire::{ObjectKind, PageKind, Rights};

use super::caps::CapLookup;
use super::intent::{Fields, Now};
use super::layout::{
    Array, FREE, GENERATION, NEXT_FREE, RETIRED, STATE, cap, domain, header, object, record_words,
};
use super::lists::{HELD, HOLDERS, OWNED};
use super::slots::GENERATION_MAX;
use super::table::{Lookup, Table};
use super::types::{AuditError, DomainState, Ledger, ObjectState};
use super::words::Words;

pub(super) type Checked<T> = Result<T, AuditError>;

impl<W: Words> Table<W> {
    /// Checks every invariant and counts everything anew. Reads the whole table: for the start, for
    /// tests and for an administrator, not for the server loop.
    pub fn audit(&self) -> Result<Ledger, AuditError> {
        let audit = Audit { now: self.now() };
        let mut ledger = Ledger::default();
        for array in [Array::Caps, Array::Objects, Array::Domains] {
            ledger.retired += audit.slots(array)?;
        }
        audit.domains(&mut ledger)?;
        audit.objects(&mut ledger)?;
        audit.caps(&mut ledger)?;
        audit.list(HELD, ledger.capabilities)?;
        audit.list(HOLDERS, ledger.capabilities)?;
        audit.list(OWNED, ledger.objects_total())?;
        audit.forest(&ledger)?;
        ensure(
            ledger == self.ledger(),
            "the totals in the header are not the sums",
            0,
        )?;
        Ok(ledger)
    }
}

pub(super) fn ensure(holds: bool, what: &'static str, slot: u32) -> Checked<()> {
    if holds {
        Ok(())
    } else {
        Err(AuditError { what, slot })
    }
}

pub(super) struct Audit<'a, W> {
    pub(super) now: Now<'a, W>,
}

impl<W: Words> Audit<'_, W> {
    fn used(&self, array: Array) -> std::ops::RangeInclusive<u32> {
        1..=self.now.used_max(array)
    }

    /// Slots of one array that are taken.
    pub(super) fn taken(&self, array: Array) -> impl Iterator<Item = u32> {
        self.used(array)
            .filter(move |index| self.now.taken(array, *index))
    }

    /// Every slot is taken, retired, or in the free list once. Returns how many are retired.
    fn slots(&self, array: Array) -> Checked<u32> {
        let used = self.now.head(header::used_max(array));
        ensure(
            used < u64::from(self.now.layout.slots(array)),
            "more slots used than there are",
            0,
        )?;
        let mut free = vec![false; used as usize + 1];
        let mut next = self.now.head(header::free_head(array));
        while next != 0 {
            let index = next as u32;
            ensure(next <= used, "a free list leaves the array", index)?;
            let state = self.now.of(array, index, STATE);
            ensure(state == FREE, "a slot in a free list is taken", index)?;
            let seen = std::mem::replace(&mut free[index as usize], true);
            ensure(!seen, "a free list has a cycle", index)?;
            next = self.now.of(array, index, NEXT_FREE);
        }
        let (mut retired, mut taken) = (0, 0);
        for index in self.used(array) {
            let generation = self.now.link(array, index, GENERATION);
            ensure(
                generation != 0,
                "a slot that was used has no generation",
                index,
            )?;
            match self.now.of(array, index, STATE) {
                FREE => {
                    ensure(
                        free[index as usize],
                        "a free slot is not in the free list",
                        index,
                    )?;
                    let last = generation == GENERATION_MAX;
                    ensure(!last, "a free slot has no generation left", index)?;
                    self.blank(array, index, 2)?;
                }
                RETIRED => {
                    let last = generation == GENERATION_MAX;
                    ensure(last, "a retired slot has generations left", index)?;
                    self.blank(array, index, 1)?;
                    retired += 1;
                }
                _ => taken += 1,
            }
        }
        let count = self.now.head(header::count(array));
        ensure(
            count == taken,
            "an array's count is not that of its taken slots",
            0,
        )?;
        let same = self.now.head(header::retired(array)) == u64::from(retired);
        ensure(same, "an array's count of retired slots is wrong", 0)?;
        Ok(retired)
    }

    /// A slot that is not taken: nothing beside generation, state and link.
    fn blank(&self, array: Array, index: u32, first: usize) -> Checked<()> {
        let record = self.now.layout.record(array, index);
        let low = self.now.word(record) & 0x00ff_ffff;
        let rest = (first..record_words(array)).all(|word| self.now.word(record + word) == 0);
        ensure(
            low == 0 && rest,
            "a slot that is not taken is not blank",
            index,
        )
    }

    fn zero(&self, array: Array, index: u32, words: std::ops::Range<usize>) -> Checked<()> {
        let record = self.now.layout.record(array, index);
        let zero = words
            .into_iter()
            .all(|word| self.now.word(record + word) == 0);
        ensure(zero, "reserved words are set", index)
    }

    fn domains(&self, ledger: &mut Ledger) -> Checked<()> {
        for index in self.taken(Array::Domains) {
            let state = self.now.domain_state(index);
            let caps = self.now.of(Array::Domains, index, domain::CAPS);
            let objects = self.now.of(Array::Domains, index, domain::OBJECTS);
            let due = match state {
                None => {
                    return Err(AuditError {
                        what: "a domain has no such state",
                        slot: index,
                    });
                }
                Some(DomainState::Live) => true,
                Some(DomainState::Dying) => caps != 0,
                Some(DomainState::Dead) => caps == 0 && objects != 0,
            };
            ensure(
                due,
                "an ending domain holds more or less than its state says",
                index,
            )?;
            self.zero(Array::Domains, index, domain::RESERVED_WORDS)?;
            ledger.domains += 1;
        }
        Ok(())
    }

    /// Every object by itself, and the charges of every domain.
    fn objects(&self, ledger: &mut Ledger) -> Checked<()> {
        let slots = self.now.used_max(Array::Domains) as usize + 1;
        let mut charged = vec![(0u64, 0u64); slots];
        for index in self.taken(Array::Objects) {
            let get = |field| self.now.of(Array::Objects, index, field);
            let kind = ObjectKind::from_raw(get(object::KIND));
            let page = get(object::PAGE);
            let known = kind.is_some() && (page == 0 || PageKind::from_raw(page).is_some());
            ensure(known, "an object is of no known kind", index)?;
            let state = self.now.object_state(index);
            let state = state.ok_or(AuditError {
                what: "an object has no such state",
                slot: index,
            })?;
            let held = matches!(state, ObjectState::Binding | ObjectState::Bound);
            let right = held == (get(object::CAPS) != 0);
            ensure(
                right,
                "an object is held in a state in which it is not",
                index,
            )?;
            let owner = get(object::OWNER) as u32;
            ensure(
                self.now.taken(Array::Domains, owner),
                "an object has no owner",
                index,
            )?;
            self.zero(Array::Objects, index, object::RESERVED_WORDS)?;
            let charge = charged.get_mut(owner as usize).ok_or(AuditError {
                what: "an object's owner was never used",
                slot: index,
            })?;
            charge.0 += get(object::FRAMES);
            charge.1 += u64::from(kind == Some(ObjectKind::Port));
            ledger.objects[state as usize - 1] += 1;
            ledger.frames[state as usize - 1] += get(object::FRAMES);
        }
        for index in self.taken(Array::Domains) {
            let frames = self.now.of(Array::Domains, index, domain::FRAMES);
            let ports = self.now.of(Array::Domains, index, domain::PORTS);
            let right = charged[index as usize] == (frames, ports);
            ensure(right, "a domain is not charged with what it owns", index)?;
        }
        Ok(())
    }

    /// Every capability by itself, and against its parent.
    fn caps(&self, ledger: &mut Ledger) -> Checked<()> {
        for index in self.taken(Array::Caps) {
            let get = |field| self.now.of(Array::Caps, index, field);
            let ghost = match get(STATE) {
                cap::LIVE => false,
                cap::GHOST => true,
                _ => {
                    return Err(AuditError {
                        what: "a capability has no such state",
                        slot: index,
                    });
                }
            };
            let known = get(cap::RIGHTS) & !u64::from(Rights::all().bits()) == 0;
            ensure(known, "a capability has rights that do not exist", index)?;
            let object = get(cap::OBJECT) as u32;
            let named = self.now.taken(Array::Objects, object);
            ensure(named, "a capability names no object", index)?;
            if ghost {
                let held = [cap::HOLDER, cap::NEXT_HELD, cap::PREV_HELD]
                    .into_iter()
                    .chain([cap::NEXT_OF_OBJECT, cap::PREV_OF_OBJECT])
                    .any(|field| get(field) != 0);
                ensure(!held, "a ghost is held", index)?;
                ledger.ghosts += 1;
            } else {
                let holder = get(cap::HOLDER) as u32;
                let there = self.now.taken(Array::Domains, holder)
                    && self.now.domain_state(holder) != Some(DomainState::Dead);
                ensure(there, "a capability has no holder", index)?;
                ledger.capabilities += 1;
            }
            self.zero(Array::Caps, index, cap::TOKEN_WORDS)?;
            let parent = get(cap::PARENT) as u32;
            if parent != 0 {
                let there = self.now.taken(Array::Caps, parent);
                ensure(there, "a capability's parent is not there", index)?;
                let narrower = self.now.rights(parent).contains(self.now.rights(index));
                ensure(
                    narrower,
                    "a capability has rights that its parent lacks",
                    index,
                )?;
                let same = self.now.link(Array::Caps, parent, cap::OBJECT) == object;
                ensure(same, "a capability's parent names another object", index)?;
            } else {
                let alone = get(cap::NEXT_SIBLING) == 0 && get(cap::PREV_SIBLING) == 0;
                ensure(alone, "a capability without parent has siblings", index)?;
            }
        }
        Ok(())
    }
}
