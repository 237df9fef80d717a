//! Making units: the slow part (the kernel zeroes 2 MiB in about 63 us), for job threads.
#![forbid(unsafe_code)]

use super::mount::Opener;
use super::{Error, FRAMES_MAX, Offer, PageKind, Protection, Unit, mount, seals};

/// Makes units. Share one among job threads (`Arc<Maker>`).
#[derive(Debug)]
pub struct Maker {
    kind: PageKind,
    /// Present where units of `kind` are protected by mounts.
    opener: Option<Opener>,
}

impl Maker {
    /// A maker for what [`probe`](super::probe) found.
    ///
    /// # Errors
    /// Where its thread cannot be started or restricted.
    pub fn new(offer: &Offer) -> Result<Maker, Error> {
        let opener = match offer.protection {
            Protection::Mount => Some(Opener::start()?),
            Protection::Seals => None,
        };
        Ok(Maker {
            kind: offer.page_kind,
            opener,
        })
    }

    /// Makes a unit of `frames` zeroed frames; `kind` is what the client asked for, `None` what
    /// the pool has. Small pages can always be asked for. Blocks: never on the server's loop.
    ///
    /// # Errors
    /// [`Error::Size`]; [`Error::NoPages`] when the pool of hugepages is empty or the kind is not
    /// offered here; [`Error::Kernel`]. Nothing is left behind.
    pub fn make(&self, frames: u32, kind: Option<PageKind>) -> Result<Unit, Error> {
        if !(1..=FRAMES_MAX).contains(&frames) {
            return Err(Error::Size(frames));
        }
        let kind = kind.unwrap_or(self.kind);
        let files = match (&self.opener, kind) {
            (_, PageKind::Small4K) => seals::make(frames, kind)?,
            _ if kind != self.kind => {
                return Err(Error::NoPages {
                    kind,
                    reason: format!("exod's pool has pages of {}", self.kind.name()),
                });
            }
            (Some(opener), PageKind::Huge2M) => mount::make(frames, opener)?,
            _ => seals::make(frames, kind)?,
        };
        Ok(Unit::new(frames, kind, files))
    }
}
