//! DPDK, where it is installed: what an expert would run instead of a port.
//!
//! Two programs, and both are processes of their own that this one starts, watches and ends
//! (`process`), with sockets and runtime files in a private directory (`eal`):
//! - testpmd over `net_memif`, whose receiver looks at descriptors only (`testpmd`);
//! - a small C program on libdpdk (`bench/dpdk`, compiled when first needed: `compile`), whose sender
//!   writes and whose receiver reads every byte (`peer`).
//!
//! Each row names the program and build that it ran, the pages, the ring and the pool. Hugepages are
//! borrowed from the kernel for the run; where there are none at all DPDK runs with `--no-huge`, on the
//! 4 KiB pages that a port gets there too. Not promised: that this is the fastest that DPDK can be on
//! another processor; a build for this machine is named by `NETBENCH_TESTPMD` and `PKG_CONFIG_PATH`.
#![forbid(unsafe_code)]

mod chain;
mod compile;
mod eal;
mod pairs;
mod peer;
mod process;
mod testpmd;

use crate::row::Row;

/// Largest packet: a jumbo frame in one buffer.
const SIZE_MAX: usize = 9216;
/// Smallest packet: what testpmd can make.
const SIZE_MIN: usize = 64;
/// Largest burst that the programs take.
const BURST_MAX: usize = 256;

/// The side of memif that sends. The client owns the shared memory and may lend it without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    Client,
    Server,
}

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    let mut rows = testpmd::rows();
    rows.extend(peer::rows());
    rows.extend(pairs::rows());
    rows.extend(chain::rows());
    rows
}

/// Whether packets of `size` bytes fit.
fn fits(size: usize) -> bool {
    (SIZE_MIN..=SIZE_MAX).contains(&size)
}
