//! The exo daemon: owns raw resources, hands out capabilities, takes them back.

pub mod frames;
