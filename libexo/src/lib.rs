//! Raw resources for an unprivileged application: capabilities, frames, ports, packets.

pub mod abi;
pub mod client;
mod error;
pub mod guard;
pub mod status;

pub use client::Client;
pub use error::{Error, Result};
