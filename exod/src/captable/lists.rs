//! Doubly linked lists: which there are, and changing them as steps of a transaction.
//!
//! Every record is in at most one list of each sort, says whose, and is taken out in O(1).

#![forbid(unsafe_code)]

use super::intent::{Fields, Tx};
use super::layout::{Array, Field, cap, domain, object};
use super::words::Words;

/// A doubly linked list that records of one array form under a record of another one.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) owners: Array,
    pub(super) members: Array,
    pub(super) owner: Field,
    pub(super) head: Field,
    pub(super) next: Field,
    pub(super) prev: Field,
    /// The owner's count of members, where it keeps one.
    pub(super) count: Option<Field>,
}

/// Capabilities derived from a capability.
pub(super) const CHILDREN: List = List {
    owners: Array::Caps,
    members: Array::Caps,
    owner: cap::PARENT,
    head: cap::FIRST_CHILD,
    next: cap::NEXT_SIBLING,
    prev: cap::PREV_SIBLING,
    count: None,
};

/// Capabilities that a domain holds.
pub(super) const HELD: List = List {
    owners: Array::Domains,
    members: Array::Caps,
    owner: cap::HOLDER,
    head: domain::FIRST_CAP,
    next: cap::NEXT_HELD,
    prev: cap::PREV_HELD,
    count: Some(domain::CAPS),
};

/// Capabilities that name an object.
pub(super) const HOLDERS: List = List {
    owners: Array::Objects,
    members: Array::Caps,
    owner: cap::OBJECT,
    head: object::FIRST_CAP,
    next: cap::NEXT_OF_OBJECT,
    prev: cap::PREV_OF_OBJECT,
    count: Some(object::CAPS),
};

/// Objects that a domain is charged for.
pub(super) const OWNED: List = List {
    owners: Array::Domains,
    members: Array::Objects,
    owner: object::OWNER,
    head: domain::FIRST_OBJECT,
    next: object::NEXT_OWNED,
    prev: object::PREV_OWNED,
    count: Some(domain::OBJECTS),
};

impl<W: Words> Tx<'_, W> {
    /// Puts `member` first in `owner`'s list.
    pub(super) fn push_front(&mut self, list: List, owner: u32, member: u32) {
        let first = self.link(list.owners, owner, list.head);
        self.set_link(list.members, member, list.owner, owner);
        self.set_link(list.members, member, list.next, first);
        self.set_link(list.members, member, list.prev, 0);
        if first != 0 {
            self.set_link(list.members, first, list.prev, member);
        }
        self.set_link(list.owners, owner, list.head, member);
        if let Some(count) = list.count {
            self.add(list.owners, owner, count, 1);
        }
    }

    /// Takes `member` out of the list that it is in, and gives that list's owner.
    pub(super) fn unlink(&mut self, list: List, member: u32) -> u32 {
        let owner = self.link(list.members, member, list.owner);
        let next = self.link(list.members, member, list.next);
        let prev = self.link(list.members, member, list.prev);
        self.join(list, owner, prev, next);
        for field in [list.owner, list.next, list.prev] {
            self.set_link(list.members, member, field, 0);
        }
        if let Some(count) = list.count {
            self.add(list.owners, owner, count, -1);
        }
        owner
    }

    /// Puts `new`, which is in no list, in `old`'s place.
    pub(super) fn replace(&mut self, list: List, old: u32, new: u32) {
        let owner = self.link(list.members, old, list.owner);
        let next = self.link(list.members, old, list.next);
        let prev = self.link(list.members, old, list.prev);
        self.join(list, owner, prev, new);
        self.join(list, owner, new, next);
        self.set_link(list.members, new, list.owner, owner);
        for field in [list.owner, list.next, list.prev] {
            self.set_link(list.members, old, field, 0);
        }
    }

    /// Makes `a` and `b` neighbours; zero stands for the list's end on that side.
    fn join(&mut self, list: List, owner: u32, a: u32, b: u32) {
        if a == 0 {
            self.set_link(list.owners, owner, list.head, b);
        } else {
            self.set_link(list.members, a, list.next, b);
        }
        if b != 0 {
            self.set_link(list.members, b, list.prev, a);
        }
    }
}
