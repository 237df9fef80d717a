//! The library operating system.
