//! Raw resources for an unprivileged application: capabilities, frames, ports, packets.

pub mod abi;
pub mod client;
mod error;
pub mod guard;
pub mod packet;
pub mod port;
pub mod ring;
pub mod shm;
pub mod status;

pub use client::Client;
pub use error::{Error, Result};
