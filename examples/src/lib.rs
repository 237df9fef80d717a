//! Small programs to start from; each lives in `src/bin`. Here is what the larger ones share: roles
//! as processes of their own, each with one session.

#![forbid(unsafe_code)]

pub mod family;
pub mod numbers;
