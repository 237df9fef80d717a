//! Raw resources for an unprivileged application: capabilities, frames, ports, packets.

pub mod abi;
