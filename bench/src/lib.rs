//! netbench: packet rates of this project beside what a user would pick instead; and exobench: what
//! its daemon costs.
//!
//! `row` is the contract: one way to move packets, run once. `worker` runs its two sides as two
//! processes on two cores; `pattern` is what the packets carry, so that a lost or damaged one
//! shows. `kernel`, `dpdk`, `floor` and `port` are the rows, and `catalog` lists them.
//!
//! `exobench` has rows of its own and shares all that follows.
//!
//! `runner` measures cells in rounds, `record` turns them into figures with their spread, `table`
//! and `report` show them, `targets` and `verify` hold them against what was promised. `host` says
//! which machine it was and how quiet; `program` is what both programs do with all that.

pub mod catalog;
pub mod cli;
pub mod clock;
pub mod doctor;
pub mod dpdk;
pub mod exobench;
pub mod floor;
pub mod host;
pub mod hugepages;
pub mod interrupt;
pub mod kernel;
pub mod pattern;
pub mod port;
pub mod program;
pub mod record;
pub mod replay;
pub mod report;
pub mod row;
pub mod runner;
pub mod table;
pub mod targets;
pub mod verify;
pub mod worker;
