//! The capability table: who holds what. Only this table is authority.
//!
//! **Concept.** Three flat arrays of fixed records, linked by index: *domains* (who), *objects*
//! (frames, ports) and *capabilities* (this domain may do that with this object). A handle is a
//! capability's slot and generation, so [`Table::check`] is a few loads. Capabilities form
//! derivation trees: a derived one has a subset of its parent's rights, and revoking the parent's
//! descendants removes it.
//!
//! **Survival.** The arrays live in a sealed memfd that exod alone maps. Each change is one
//! transaction: its word writes go to an intent area first, then a commit word is set, then they
//! are applied, then the commit word is cleared. [`Table::recover`] finishes a committed change and
//! forgets an uncommitted one, so that a crash between any two stores leaves a balanced ledger.
//!
//! **Bounded work.** No call loops over more than a constant number of records, except those that
//! take a budget and answer [`Progress`], and [`Table::audit`], which reads everything. No walk
//! keeps a cursor: stopped anywhere, even by a crash, it is called again and goes on.
//!
//! **Dropping is O(1).** A dropped capability with several children leaves a *ghost* in its place,
//! without holder or handle, so that its own ancestors can still revoke what it gave. A ghost with
//! a single child is spliced out at once; hence there are fewer ghosts than capabilities.
//!
//! **Not here.** No system call but for the memfd, and nothing is bound or unbound: the caller acts
//! on [`Event`]s and reports back. Charges follow the object, not the holder: whoever made an
//! object is charged until it is released, and a dead domain's record stays as long.

#![deny(unsafe_code)]

mod audit;
mod audit_links;
mod caps;
mod domains;
mod intent;
mod layout;
mod lists;
mod objects;
mod revoke;
mod slots;
mod table;
#[cfg(test)]
mod tests;
mod types;
#[allow(unsafe_code)]
mod words;

pub use layout::Limits;
pub use table::Table;
pub use types::{
    AuditError, CapView, DomainId, DomainInfo, DomainState, DomainView, Event, Ledger, NewObject,
    ObjectId, ObjectState, ObjectView, OpenError, Progress, Quota, TableError,
};
pub use words::{Mapping, Words};
