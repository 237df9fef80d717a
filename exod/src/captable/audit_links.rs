//! The audit of links: every list is an exact partition, and derivation is a forest.
//!
//! A walk visits each record once or stops, so it ends, whatever the links are.

#![forbid(unsafe_code)]

use super::audit::{Audit, Checked, ensure};
use super::intent::Fields;
use super::layout::{Array, STATE, cap};
use super::lists::{CHILDREN, List};
use super::table::Lookup;
use super::types::{AuditError, Ledger};
use super::words::Words;

impl<W: Words> Audit<'_, W> {
    /// Walks one owner's list; `visit` is told each member once.
    fn walk(
        &self,
        list: List,
        owner: u32,
        seen: &mut [bool],
        mut visit: impl FnMut(u32),
    ) -> Checked<u64> {
        let (mut before, mut members) = (0, 0);
        let mut at = self.now.link(list.owners, owner, list.head);
        while at != 0 {
            ensure(
                self.now.taken(list.members, at),
                "a list leads to a free slot",
                owner,
            )?;
            let seen = seen.get_mut(at as usize);
            let seen = seen.ok_or(AuditError {
                what: "a list leads out of its array",
                slot: owner,
            })?;
            ensure(
                !std::mem::replace(seen, true),
                "a record is in a list twice",
                at,
            )?;
            let back = self.now.link(list.members, at, list.prev) == before;
            ensure(back, "a list's links do not match", at)?;
            let owned = self.now.link(list.members, at, list.owner) == owner;
            ensure(owned, "a record is in another one's list", at)?;
            visit(at);
            members += 1;
            before = at;
            at = self.now.link(list.members, at, list.next);
        }
        Ok(members)
    }

    /// A list is an exact partition: `total` members, each in the list of its owner, and counted.
    pub(super) fn list(&self, list: List, total: u32) -> Checked<()> {
        let mut seen = vec![false; self.now.used_max(list.members) as usize + 1];
        let mut met = 0;
        for owner in self.taken(list.owners) {
            let members = self.walk(list, owner, &mut seen, |_| {})?;
            let count = list
                .count
                .map_or(members, |c| self.now.of(list.owners, owner, c));
            ensure(
                count == members,
                "a list is not as long as its owner says",
                owner,
            )?;
            met += members;
        }
        ensure(
            met == u64::from(total),
            "a record is missing from its owner's list",
            0,
        )
    }

    /// Every capability is reached from a root once, and every ghost is a branching point.
    pub(super) fn forest(&self, ledger: &Ledger) -> Checked<()> {
        let mut seen = vec![false; self.now.used_max(Array::Caps) as usize + 1];
        let is_root = |index: &u32| self.now.link(Array::Caps, *index, cap::PARENT) == 0;
        let mut due: Vec<u32> = self.taken(Array::Caps).filter(is_root).collect();
        let mut met = 0u64;
        while let Some(index) = due.pop() {
            met += 1;
            let children = self.walk(CHILDREN, index, &mut seen, |child| due.push(child))?;
            let ghost = self.now.of(Array::Caps, index, STATE) == cap::GHOST;
            ensure(
                !ghost || children >= 2,
                "a ghost has fewer than two children",
                index,
            )?;
        }
        let all = u64::from(ledger.capabilities) + u64::from(ledger.ghosts);
        ensure(
            met == all,
            "the derivation forest has a cycle or lost a branch",
            0,
        )
    }
}
