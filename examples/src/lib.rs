//! Small programs to start from; each lives in `src/bin`.

#![forbid(unsafe_code)]
