//! Making units: the slow part (the kernel zeroes 2 MiB in about 63 us), for job threads.
#![forbid(unsafe_code)]

use super::{Error, Offer, PageKind, Unit};

/// Makes units. Share one among job threads (`Arc<Maker>`).
#[derive(Debug)]
pub struct Maker {}

impl Maker {
    /// A maker for what [`probe`](super::probe) found.
    ///
    /// # Errors
    /// Where its thread cannot be started.
    pub fn new(offer: &Offer) -> Result<Maker, Error> {
        let _ = offer;
        todo!()
    }

    /// Makes a unit of `frames` zeroed frames; `kind` is what the client asked for, `None` what
    /// the pool has. Small pages can always be asked for. Blocks: never on the server's loop.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::NoPages`] when the pool of hugepages is empty or the kind is not
    /// offered here; [`Error::Kernel`]. Nothing is left behind.
    pub fn make(&self, frames: u32, kind: Option<PageKind>) -> Result<Unit, Error> {
        let _ = (frames, kind);
        todo!()
    }
}
