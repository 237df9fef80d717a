//! What exod changes on the machine outside of itself, and how that is put back after a kill.
//!
//! Memory, mounts and sessions end with the process, whatever kills it. The kernel's pool of
//! hugepages does not, nor does the layout of cgroups. So exod writes down what it is about to
//! change, in a directory that lives as long as the service (systemd's `RuntimeDirectory=`), and
//! removes the record when it has put everything back. A record that is found was left by an exod
//! that was killed: the next one puts back what it says before it begins, and so does
//! `exod --put-back`, which systemd calls when the service has ended for whatever reason.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::cgroup::Changes;
use crate::frames::Hugepages;

/// The record of hugepages that were added.
pub const HUGEPAGES: &str = "hugepages";

/// The record of cgroups that were changed.
pub const CGROUPS: &str = "cgroups";

/// Where the service manager lets exod keep records; nothing when it does not say.
pub fn directory() -> Option<PathBuf> {
    let all = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&all)
        .next()
        .filter(|p| p.is_absolute())
}

/// Puts back what the records say. Says in the log what it did.
pub fn put_back(records: &Path) {
    if let Some(changes) = Changes::left_behind(&records.join(CGROUPS)) {
        let count = changes.len();
        drop(changes);
        tracing::warn!("put back {count} changes of cgroups that a killed exod had made");
    }
    if let Some(pages) = Hugepages::left_behind(&records.join(HUGEPAGES)) {
        let added = pages.added();
        drop(pages);
        tracing::warn!("put back {added} hugepages that a killed exod had added");
    }
}
