//! Raw resources for an unprivileged application: capabilities, frames, ports, packets.
//!
//! exod owns frames of memory and hands them out as capabilities. This library uses them: it maps
//! what was granted, and from then on nobody asks anybody. Two applications that do not trust each
//! other exchange packets over a [`port`], each writing only its own memory and reading the
//! other's.
//!
//! ```
//! use std::time::Duration;
//!
//! use libexo::Client;
//! use libexo::port::{Port, PortConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two sessions of an exod in this process; with a daemon, `Client::connect_default()`.
//! let exod = exod::Embedded::start(exod::config::Config::embedded())?;
//! let (alice, bob) = (Client::over(exod.connect()?)?, Client::over(exod.connect()?)?);
//!
//! let waiting = Port::create(&alice, "greetings", PortConfig::default())?;
//! let mut inbox = Port::join(&bob, "greetings", PortConfig::default())?;
//! let mut outbox = waiting.ready(Duration::from_secs(1))?;
//!
//! assert_eq!(outbox.send_with(1, 5, |_, bytes| bytes.copy_from_slice(b"hello"))?, 1);
//! for packet in inbox.receive_burst(32)? {
//!     // Alice can still write these bytes, so they are copied before anybody looks at them.
//!     assert_eq!(packet.bytes().head::<5>()?, *b"hello");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Rooms
//!
//! - [`client`]: a session with exod; what it grants, and its refusals.
//! - [`port`] and [`packet`]: packets of our own, owned linearly, and packets of a peer, lent.
//! - [`ring`]: eight-byte slots that one domain writes and another reads.
//! - [`shm`]: the one room that touches shared memory through pointers.
//! - [`status`] and [`guard`]: how a client learns that something was taken back, and lives on.
//! - [`counters`]: what exod counts, for those who watch it.
//! - [`abi`]: what is agreed on with exod and with peers, and nothing that acts.
//!
//! # What holds
//!
//! - A packet that was sent is gone: using it afterwards does not compile.
//! - Bytes that a peer can write are never a slice, except on a port that the policy calls trusted.
//! - What a peer wrote is read once, checked, and then used. A peer that breaks the rules ends its
//!   port and harms nobody else.
//! - Memory that was taken back is reported as [`Error::Revoked`], and never read as zeroes, where
//!   [`guard::install`] was called. Without it, touching such memory kills the process.

pub mod abi;
pub mod client;
pub mod counters;
mod error;
pub mod guard;
pub mod packet;
pub mod port;
pub mod ring;
pub mod shm;
pub mod status;

pub use client::Client;
pub use error::{Error, Result};
