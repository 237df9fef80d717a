//! The derivation forest: taking capabilities out of it, one bounded step each.
//!
//! Nothing here recurses or walks down a tree. A capability is taken out in O(1), whatever hangs
//! below it (see the [module](super) for ghosts). Revoking a subtree needs neither cursor nor
//! stack: a child of the root that has several children of its own first hands them up, one at a
//! time, to the root. They stay descendants of the root, which is all that matters for nodes that
//! are about to go. Each node is moved at most once and removed once, so a walk over n of them
//! takes at most 2 n steps, in whatever shape they hang, and goes on from wherever it stopped.

#![forbid(unsafe_code)]

use super::caps::CapLookup;
use super::intent::{Fields, Tx};
use super::layout::{Array, STATE, cap, header, object};
use super::lists::{CHILDREN, HELD, HOLDERS};
use super::table::{Lookup, Table};
use super::types::{DomainId, Event, ObjectId, Progress, TableError};
use super::words::Words;

impl<W: Words> Table<W> {
    /// Revokes what was derived from `handle`, which itself stays, in at most `budget` steps.
    ///
    /// Finish a walk before `handle` is dropped: what the walk did not reach stays otherwise. A
    /// descendant can be derived from while the walk is on; the walk then meets the new one too.
    pub fn revoke_step(
        &mut self,
        domain: DomainId,
        handle: u64,
        budget: u32,
        events: &mut Vec<Event>,
    ) -> Result<Progress, TableError> {
        let found = self.now().find_held(domain, handle);
        let (_, root) = found.ok_or(TableError::NoSuchHandle)?;
        for _ in 0..budget {
            let child = self.now().link(Array::Caps, root, cap::FIRST_CHILD);
            if child == 0 {
                return Ok(Progress::Done);
            }
            let mut tx = self.tx();
            if tx.children_up_to_two(child) < 2 {
                tx.remove_cap(child, events);
            } else {
                tx.hand_up(root, child);
            }
            tx.commit();
        }
        Ok(Progress::More)
    }

    /// Takes up to `budget` capabilities on an object away from whoever holds them. Done as well
    /// when the object is gone.
    pub fn revoke_object_step(
        &mut self,
        object: ObjectId,
        budget: u32,
        events: &mut Vec<Event>,
    ) -> Result<Progress, TableError> {
        let Some(object) = self.now().find_object(object) else {
            return Ok(Progress::Done);
        };
        for _ in 0..budget {
            let first = self.now().link(Array::Objects, object, object::FIRST_CAP);
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
    /// Takes a capability from its holder and out of the forest.
    pub(super) fn remove_cap(&mut self, index: u32, events: &mut Vec<Event>) {
        let object = self.link(Array::Caps, index, cap::OBJECT);
        let holder = self.link(Array::Caps, index, cap::HOLDER);
        events.push(Event::CapGone {
            holder: self.domain_id(holder),
            handle: self.handle(index),
            object: self.object_id(object),
        });
        self.unlink(HELD, index);
        self.unlink(HOLDERS, index);
        self.leave_forest(index, object);
        if self.of(Array::Objects, object, object::CAPS) == 0 {
            self.unbind(object, events);
        }
        self.settle_domain(holder, events);
    }

    /// Frees the node, or leaves a ghost where its children still need a common ancestor.
    fn leave_forest(&mut self, index: u32, object: u32) {
        match self.children_up_to_two(index) {
            0 => {
                let parent = self.link(Array::Caps, index, cap::PARENT);
                if parent != 0 {
                    self.unlink(CHILDREN, index);
                    self.settle_ghost(parent);
                }
                self.free_slot(Array::Caps, index);
            }
            1 => self.splice(index),
            _ => {
                self.set(Array::Caps, index, STATE, cap::GHOST);
                // A ghost is in no list of its object, but still says which one its tree is of.
                self.set_link(Array::Caps, index, cap::OBJECT, object);
                self.add_head(header::GHOSTS, 1);
            }
        }
    }

    /// A ghost that lost a child: gone, if only one is left.
    fn settle_ghost(&mut self, index: u32) {
        if self.of(Array::Caps, index, STATE) == cap::GHOST && self.children_up_to_two(index) == 1 {
            self.add_head(header::GHOSTS, -1);
            self.splice(index);
        }
    }

    /// Puts a node's only child in its place and frees it.
    fn splice(&mut self, index: u32) {
        let child = self.link(Array::Caps, index, cap::FIRST_CHILD);
        self.unlink(CHILDREN, child);
        if self.link(Array::Caps, index, cap::PARENT) != 0 {
            self.replace(CHILDREN, index, child);
        }
        self.free_slot(Array::Caps, index);
    }

    /// Moves the first child of `child` up to `root`.
    fn hand_up(&mut self, root: u32, child: u32) {
        let grandchild = self.link(Array::Caps, child, cap::FIRST_CHILD);
        self.unlink(CHILDREN, grandchild);
        self.push_front(CHILDREN, root, grandchild);
        self.settle_ghost(child);
    }

    /// How many children a node has, where two stands for more.
    fn children_up_to_two(&self, index: u32) -> u32 {
        match self.link(Array::Caps, index, cap::FIRST_CHILD) {
            0 => 0,
            first if self.link(Array::Caps, first, cap::NEXT_SIBLING) == 0 => 1,
            _ => 2,
        }
    }
}
