//! The exo daemon: owns raw resources, hands out capabilities, takes them back.
//!
//! Pure state first: [`captable`] says who holds what, [`ports`] which sides make a port.
//! [`frames`] binds and unbinds memory for real. A request is decoded ([`decode`]: everything
//! checked, nothing changed), then invoked ([`invoke`]). The [`server`] loop carries records
//! between the two and never sleeps in the kernel: slow calls are [`jobs`], hostile descriptors go
//! to the [`closer`].

pub mod accounts;
pub mod activation;
pub mod audit;
pub mod bell;
pub mod book;
pub mod captable;
pub mod cgroup;
pub mod closer;
pub mod config;
pub mod counters;
pub mod decode;
pub mod embedded;
pub mod frames;
pub mod identity;
pub mod invoke;
pub mod jobs;
pub mod leftovers;
pub mod log;
pub mod look;
pub mod manager;
pub mod pages;
pub mod policy;
pub mod ports;
pub mod server;
pub mod shared;
pub mod state;
pub mod status;
pub use embedded::Embedded;
