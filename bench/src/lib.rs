//! netbench: packet rates of this project beside what a user would pick instead.
//!
//! `row` is the contract: one way to move packets, run once. `worker` runs its two sides as two
//! processes on two cores; `pattern` is what the packets carry, so that a lost or damaged one shows.
//! `kernel`, `dpdk`, `floor` and `port` are the rows, and `catalog` lists them.

pub mod catalog;
pub mod clock;
pub mod dpdk;
pub mod floor;
pub mod hugepages;
pub mod interrupt;
pub mod kernel;
pub mod pattern;
pub mod port;
pub mod row;
pub mod worker;
