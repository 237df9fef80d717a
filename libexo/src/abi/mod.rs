//! What two protection domains must agree on, and nothing else: layouts and constants.
//!
//! This room has no code that acts. `exod`, a client and a peer across a port each compile it in;
//! none of them trusts the bytes that another one wrote in these shapes.
//!
//! - [`wire`]: the records on exod's socket.
//! - [`counters`]: the page of counters that exod writes and an admin reads.
//! - [`status`]: the table of one word per handle that exod writes and a client reads.
//! - [`tap`]: what a tapped side of a port mirrors.
//! - [`port`]: how a port's segment is laid out, and the 8-byte descriptors and returns in it.

#![forbid(unsafe_code)]

pub mod counters;
pub mod port;
mod process;
pub mod status;
pub mod tap;
pub mod wire;

/// Version of everything in this room. Both ends refuse another one, in the hello.
pub const ABI_VERSION: u16 = 1;

/// Bytes in a cache line on every machine that exo runs on.
pub const CACHE_LINE: usize = 64;
