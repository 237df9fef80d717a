//! What the larger examples share: roles as processes of their own, each with one session.

#![forbid(unsafe_code)]

pub mod family;
