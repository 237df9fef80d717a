//! The table itself: made, taken over, looked into. What changes it is in the files beside.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libexo::abi::wire::{ObjectKind, PageKind};

use super::intent::{Fields, Now, Tx, replay};
use super::layout::{
    Array, FREE, GENERATION, Layout, Limits, MAGIC, RETIRED, STATE, VERSION, domain, header, object,
};
use super::types::{
    DomainId, DomainInfo, DomainState, DomainView, Ledger, ObjectId, ObjectState, ObjectView,
    OpenError, Quota,
};
use super::words::{Mapping, Words};

/// The capability table. One owner, one thread; see the [module](super).
#[derive(Debug)]
pub struct Table<W = Mapping> {
    pub(super) words: W,
    pub(super) layout: Layout,
    /// Scratch space of transactions.
    pub(super) writes: Vec<(usize, u64)>,
}

impl Table<Mapping> {
    /// A new table in a new sealed memfd.
    pub fn create(limits: Limits) -> Result<Table, OpenError> {
        let layout = Layout::new(limits).ok_or(OpenError::Limits)?;
        Self::format(Mapping::create(layout.total_words)?, limits)
    }

    /// Takes over the table of an exod that stopped at any point, and begins its next epoch.
    ///
    /// The caller then finishes what that one began: [`Table::next_domain`] shows who is dying,
    /// [`Table::next_object`] what was left binding or unbinding.
    pub fn recover(fd: OwnedFd) -> Result<Table, OpenError> {
        Self::reopen(Mapping::adopt(fd)?)
    }

    /// The memfd, to be kept across a restart. Giving it to anyone else gives everything away.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

impl<W: Words> Table<W> {
    /// Writes the header of a new table over zeroes.
    pub(super) fn format(words: W, limits: Limits) -> Result<Table<W>, OpenError> {
        let layout = Layout::new(limits).ok_or(OpenError::Limits)?;
        words.store(header::TOTAL_WORDS, layout.total_words as u64);
        let slots = [limits.capabilities, limits.objects, limits.domains];
        for (i, slots) in slots.into_iter().enumerate() {
            words.store(header::LIMITS + i, u64::from(slots));
        }
        words.store(header::EPOCH, 1);
        words.store(header::VERSION, VERSION);
        // Last, so that a table that was not finished is none.
        words.store(header::MAGIC, MAGIC);
        Ok(Table {
            words,
            layout,
            writes: Vec::new(),
        })
    }

    /// Takes over words that may hold anything.
    pub(super) fn reopen(words: W) -> Result<Table<W>, OpenError> {
        let layout = read_layout(&words).map_err(OpenError::NotATable)?;
        replay(&words, &layout).map_err(OpenError::NotATable)?;
        let table = Table {
            words,
            layout,
            writes: Vec::new(),
        };
        table.audit()?;
        table
            .words
            .store(header::EPOCH, table.epoch().wrapping_add(1));
        Ok(table)
    }

    /// Slots of each array.
    pub fn limits(&self) -> Limits {
        self.layout.limits
    }

    /// Counts the exods that worked on this table.
    pub fn epoch(&self) -> u64 {
        self.words.load(header::EPOCH)
    }

    /// Totals, as the table keeps them; [`Table::audit`] counts them anew.
    pub fn ledger(&self) -> Ledger {
        let now = self.now();
        let count = |field| now.head(field) as u32;
        let ghosts = count(header::GHOSTS);
        let arrays = [Array::Caps, Array::Objects, Array::Domains];
        Ledger {
            domains: count(header::count(Array::Domains)),
            capabilities: count(header::count(Array::Caps)).wrapping_sub(ghosts),
            ghosts,
            retired: arrays
                .map(|a| count(header::retired(a)))
                .into_iter()
                .fold(0, u32::wrapping_add),
            objects: ObjectState::ALL.map(|s| count(header::objects(s as u64))),
            frames: ObjectState::ALL.map(|s| now.head(header::frames(s as u64))),
        }
    }

    pub(super) fn now(&self) -> Now<'_, W> {
        Now {
            words: &self.words,
            layout: &self.layout,
        }
    }

    pub(super) fn tx(&mut self) -> Tx<'_, W> {
        Tx::new(&self.words, &self.layout, &mut self.writes)
    }
}

fn read_layout<W: Words>(words: &W) -> Result<Layout, &'static str> {
    if words.len() < header::WORDS {
        return Err("it is too short");
    }
    if words.load(header::MAGIC) != MAGIC {
        return Err("its first word is not ours");
    }
    if words.load(header::VERSION) != VERSION {
        return Err("it has another version's layout");
    }
    let limit = |i| u32::try_from(words.load(header::LIMITS + i)).ok();
    let limits = match (limit(0), limit(1), limit(2)) {
        (Some(capabilities), Some(objects), Some(domains)) => Limits {
            capabilities,
            objects,
            domains,
        },
        _ => return Err("its limits are out of range"),
    };
    let layout = Layout::new(limits).ok_or("its limits are out of range")?;
    let total = words.load(header::TOTAL_WORDS);
    if total != layout.total_words as u64 || words.len() != layout.total_words {
        return Err("its size does not match its limits");
    }
    Ok(layout)
}

/// Looking records up. What every reader of the table and of a transaction shares.
pub(super) trait Lookup: Fields {
    /// Whether the slot is taken, by whatever state. A slot that was never used is not read at all.
    fn taken(&self, array: Array, index: u32) -> bool {
        let in_range = (1..=self.used_max(array)).contains(&index);
        in_range && ![FREE, RETIRED].contains(&self.of(array, index, STATE))
    }

    /// The highest slot that was ever used.
    fn used_max(&self, array: Array) -> u32 {
        self.head(header::used_max(array)) as u32
    }

    /// The slot, if it is taken by this very generation.
    fn find(&self, array: Array, (index, generation): (u32, u32)) -> Option<u32> {
        let same = self.taken(array, index) && self.link(array, index, GENERATION) == generation;
        same.then_some(index)
    }

    fn find_domain(&self, id: DomainId) -> Option<u32> {
        self.find(Array::Domains, id.split())
    }

    fn find_object(&self, id: ObjectId) -> Option<u32> {
        self.find(Array::Objects, id.split())
    }

    fn domain_id(&self, index: u32) -> DomainId {
        DomainId::new(index, self.link(Array::Domains, index, GENERATION))
    }

    fn object_id(&self, index: u32) -> ObjectId {
        ObjectId::new(index, self.link(Array::Objects, index, GENERATION))
    }

    fn object_state(&self, index: u32) -> Option<ObjectState> {
        let state = self.of(Array::Objects, index, STATE);
        ObjectState::ALL.into_iter().find(|s| *s as u64 == state)
    }

    fn domain_state(&self, index: u32) -> Option<DomainState> {
        use DomainState::{Dead, Dying, Live};
        let state = self.of(Array::Domains, index, STATE);
        [Live, Dying, Dead].into_iter().find(|s| *s as u64 == state)
    }

    fn object_view(&self, index: u32) -> Option<ObjectView> {
        let get = |field| self.of(Array::Objects, index, field);
        Some(ObjectView {
            id: self.object_id(index),
            kind: ObjectKind::from_raw(get(object::KIND))?,
            state: self.object_state(index)?,
            frames: get(object::FRAMES) as u32,
            page: PageKind::from_raw(get(object::PAGE)),
            owner: self.domain_id(get(object::OWNER) as u32),
            holders: get(object::CAPS) as u32,
            tag: get(object::TAG),
        })
    }

    fn domain_view(&self, index: u32) -> Option<DomainView> {
        let get = |field| self.of(Array::Domains, index, field);
        Some(DomainView {
            id: self.domain_id(index),
            info: DomainInfo {
                uid: get(domain::UID) as u32,
                gid: get(domain::GID) as u32,
                pid: get(domain::PID) as u32,
                pid_start: get(domain::PID_START),
                quota: Quota {
                    frames: get(domain::QUOTA_FRAMES),
                    capabilities: get(domain::QUOTA_CAPS) as u32,
                    ports: get(domain::QUOTA_PORTS) as u32,
                },
            },
            state: self.domain_state(index)?,
            frames: get(domain::FRAMES),
            capabilities: get(domain::CAPS) as u32,
            ports: get(domain::PORTS) as u32,
            objects: get(domain::OBJECTS) as u32,
        })
    }
}

impl<T: Fields> Lookup for T {}
