//! Networks: packet formats come from `smoltcp::wire`, what is done with them is here.

#![forbid(unsafe_code)]

pub mod ethernet;
pub mod fdb;
