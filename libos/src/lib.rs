//! The library operating system: what an application chooses to build on raw resources.
//!
//! Nothing in here has authority. exod guards frames and ports; how packets look, who is where on a
//! network and what to do while there is nothing to do is decided here, in the application's own
//! process, and can be replaced by it.
//!
//! - [`net`]: packet formats, and the tables that networks need.
//! - [`idle`]: what a loop does when a turn found no work.
//! - [`huge`]: tables on hugepages of this process.

pub mod huge;
pub mod idle;
pub mod net;
