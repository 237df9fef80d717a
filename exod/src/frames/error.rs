//! What can go wrong with frames.
#![forbid(unsafe_code)]

use std::io;

use super::{FRAMES_MAX, PageKind};

/// Why frames could not be made, protected or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a call.
    #[error("{call} failed for {what}: {source}")]
    Kernel {
        /// The system call.
        call: &'static str,
        /// What it was for, and what can be done about it.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A size that no unit has.
    #[error("a unit has 1 to {FRAMES_MAX} frames, not {0}")]
    Size(u32),
    /// The machine, or the user that exod runs as, cannot have these pages.
    #[error("pages of {} cannot be had here: {reason}", kind.name())]
    NoPages {
        /// The pages asked for.
        kind: PageKind,
        /// Why, and what to do.
        reason: String,
    },
    /// No such name for pages.
    #[error("pages must be one of auto, 2M, thp, 4K, not {0:?}")]
    Choice(String),
    /// The thread that opens clients' descriptors has ended.
    #[error("the thread that opens clients' descriptors has ended: restart exod")]
    OpenerGone,
}

impl Error {
    /// For `map_err`: names the call and its purpose.
    pub(super) fn kernel<E: Into<io::Error>>(
        call: &'static str,
        what: &'static str,
    ) -> impl FnOnce(E) -> Error {
        move |source| Error::Kernel {
            call,
            what,
            source: source.into(),
        }
    }
}
