//! The library operating system: what an application chooses to build on raw resources.
//!
//! Everything here is policy. exod does not know it, it runs in the application that links it, and a
//! program that wants something else replaces it. It has no privilege and no unsafe code: what needs
//! either is in `libexo` or in `exod`.

#![forbid(unsafe_code)]
