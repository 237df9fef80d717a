//! Living on after memory was taken back: a SIGBUS handler that maps zeroes over the hole.
//!
//! A lost mapping raises SIGBUS on the next touch. Where [`install`] was called (nothing does so on
//! its own) and the address lies in a registered range, the handler counts the loss, maps zeroes
//! over the page and lets the access go on. So **a function that touched revocable or peer memory
//! compares [`losses`] after its last access and before it returns `Ok`**: zeroes that were made up
//! here are never delivered as data. The counter rises before the zeroes appear, in whichever
//! thread.
//!
//! Any other SIGBUS goes to the handler that was there before, or kills as it always did. System
//! calls on lost memory see EFAULT and never come here.

use std::ptr::NonNull;

use crate::Result;

/// Ranges that can be registered at once: every segment of a hundred busy ports.
pub const RANGES_MAX: usize = 4096;

/// Installs the handler for this process and an alternate stack for this thread, if it has none.
/// Again is harmless; call it in each thread that Rust's standard library did not start.
pub fn install() -> Result<()> {
    todo!()
}

/// Losses that this process has touched so far, over all ranges.
#[inline]
pub fn losses() -> u64 {
    todo!()
}

/// A range that the handler patches; dropping it ends that. Unmap only afterwards.
#[derive(Debug)]
pub struct Registration(());

/// Registers a mapping of whole pages of `page_bytes` (4 KiB or 2 MiB).
///
/// # Safety
/// The range is mapped, in pages of that size, belongs to the caller, and stays so until the
/// registration is dropped; nobody touches it while it is being dropped. What is in it is only read
/// in ways that allow it to turn into zeroes at any time.
#[allow(unused)]
pub unsafe fn register(addr: NonNull<u8>, len: usize, page_bytes: usize) -> Result<Registration> {
    todo!()
}
