//! The two sides of a row as separate processes, each pinned to its core.
//!
//! The parent starts this same program again with the hidden command `worker`, gives each child one
//! end of a socketpair (JSON lines: `job`, `go` down; `ready`, `result`, `error` up), a shared page
//! that says which phase the run is in (`Control`), and the descriptors that the row's link needs.
//! A child says `ready` with whatever its peer must know, both `go`, run through a warm-up, count
//! through the window and answer with a `Report`. Inside the window nobody makes a system call for
//! netbench's sake: the phase is one load from a line that stays in the cache.
//!
//! A worker never outlives its parent (PR_SET_PDEATHSIG) nor a Ctrl-C (it has its own session, so
//! the signal reaches the parent alone, which stops or kills it), and a worker that fails, ends or
//! hangs ends the run with an error that names it.

mod child;
mod control;
mod link;
mod meter;
mod team;

pub use child::{child_main, guard, guard_sharing, pin, raise_priority, take_turns};
pub use control::{Control, Phase};
pub use link::{Job, Link, Mode, Report, Role, new_histogram};
pub use meter::{Meter, Sequence};
pub use team::Team;
