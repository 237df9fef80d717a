//! The status table, mapped read-only: what exod says about each handle, for the price of a load.
//!
//! exod alone writes it, at any time; so its words are only ever read as atomics. It is information
//! and never protection. A word whose generation is not the handle's reads as empty, so
//! `contains(LIVE)` is the whole check. After a call that may have used what was taken, compare
//! [`StatusTable::loss_counter`] (exod took something) and [`crate::guard::losses`] (this process
//! touched it) with their values from before.

use std::os::fd::AsFd;

use crate::Result;
use crate::abi::status::Status;

/// One session's status table.
pub struct StatusTable(());

/// The status word of one handle: address resolved once, table kept mapped.
#[derive(Clone)]
pub struct StatusWord(());

#[allow(unused)]
impl StatusTable {
    /// Maps `bytes` of `file`, which must be that long.
    pub fn map(file: impl AsFd, bytes: usize) -> Result<StatusTable> {
        todo!()
    }

    /// Status of a handle; empty when it is stale or out of the table.
    #[inline]
    pub fn status(&self, handle: u64) -> Status {
        todo!()
    }

    /// Counts every loss that exod inflicted on this domain.
    #[inline]
    pub fn loss_counter(&self) -> u64 {
        todo!()
    }

    /// Changes when exod was started anew.
    pub fn epoch(&self) -> u64 {
        todo!()
    }
}

impl StatusWord {
    /// Status of the handle: one load and a compare. Empty when it is not live any more.
    #[inline]
    pub fn load(&self) -> Status {
        todo!()
    }

    /// Status and the milliseconds until the capability is taken by force.
    pub fn load_deadline(&self) -> (Status, u16) {
        todo!()
    }
}
