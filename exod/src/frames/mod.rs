//! Frames: how units are made, protected, kept ready and taken back.
//!
//! A *frame* is 2 MiB of memory ([`FRAME_BYTES`]), whatever pages are behind it. A *unit* is one
//! file of one or more frames. It is what one memory capability binds, since a descriptor always
//! gives its whole file. exod holds three descriptors of it: its own full one, the client's
//! ([`Unit::client_fd`]) and the one for peers ([`Unit::peer_fd`], read-only). exod never maps a
//! unit that it has handed out.
//!
//! Life of a unit: [`Maker::make`] (a job: it zeroes) -> [`Pool::put`] -> [`Pool::take`] (no system
//! call) -> descriptors handed out -> [`Unit::revoke`] (a job) -> [`Revoked::returned`] until it is
//! true. A file is never granted twice: revoking consumes the unit.
//!
//! # What holds, by protection
//!
//! | a hostile holder who is neither root nor exod's own user | [`Mount`] | [`Seals`] |
//! |---|---|---|
//! | truncates or extends, by descriptor or reopened through /proc | refused | refused |
//! | makes a read-only descriptor writable, by any way | refused | refused |
//! | punches (fallocate, MADV_REMOVE), and no more | zeroes; co-holders read zeroes even with the hugepage pool drained | zeroes; a co-holder of hugepages gets SIGBUS while the pool is drained |
//! | takes pages beyond its own frames | never more than the unit's bytes | mapping past the end of a *hugepage* file takes pool pages (as any process can take them anonymously) |
//! | after [`Unit::revoke`] | every mapping dies by SIGBUS, and no page can be had back | data is gone; the holder may fault in new zeroes until it lets go |
//! | keeps a descriptor, mapping or pin after that | [`Revoked::returned`] stays false | the same, except pins (pipes, io_uring), which are not seen |
//!
//! Not promised by [`Mount`], and by nothing that Linux offers for hugepages without confining the
//! holder: a *writer* that punches its frames and then takes the same pages elsewhere in its own
//! file (fallocate with KEEP_SIZE, or mmap, past the end) leaves its readers with SIGBUS there.
//! It can hurt nobody but those who read its own segment, and they see zeroes or the signal, never
//! foreign bytes. So a reader of peer memory needs libexo's SIGBUS handler. A reader can do nothing
//! to the writer.
//!
//! [`Mount`]: Protection::Mount
//! [`Seals`]: Protection::Seals

mod error;
mod hugepages;
mod lease;
mod maker;
mod mount;
mod offer;
mod pool;
mod seals;
mod unit;

pub use error::Error;
pub use hugepages::Hugepages;
pub use libexo::abi::wire::{PageKind, Protection};
pub use maker::Maker;
pub use offer::{Offer, PageChoice, probe};
pub use pool::Pool;
pub use unit::{Revoked, Unit};

/// Bytes of a frame: one 2 MiB page, or what stands in for it where none is to be had.
pub const FRAME_BYTES: usize = 2 << 20;

/// Frames of the largest unit: 1 GiB, the reach of a port descriptor's offset.
pub const FRAMES_MAX: u32 = 512;
