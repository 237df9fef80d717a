//! What this machine offers for frames, found out once at start by trying it.
#![forbid(unsafe_code)]

use std::str::FromStr;

use super::{Error, PageKind, Protection};

/// Which pages the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub enum PageChoice {
    /// The best that works here.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Hugepages, or exod does not start.
    #[serde(rename = "2M")]
    Huge2M,
    /// Transparent hugepages, or exod does not start.
    #[serde(rename = "thp")]
    Thp,
    /// Small pages.
    #[serde(rename = "4K")]
    Small4K,
}

impl FromStr for PageChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<PageChoice, Error> {
        match text {
            "auto" => Ok(PageChoice::Auto),
            "2M" => Ok(PageChoice::Huge2M),
            "thp" => Ok(PageChoice::Thp),
            "4K" => Ok(PageChoice::Small4K),
            other => Err(Error::Choice(other.to_owned())),
        }
    }
}

/// What this machine offers to this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The pages that the pool uses.
    pub page_kind: PageKind,
    /// How units of these pages are protected.
    pub protection: Protection,
    /// Why it is not something better, one line each, with what to do about it; for the log, `exo
    /// doctor` and the benchmarks. Empty for hugepages on private mounts.
    pub reasons: Vec<String>,
}

/// Tries what this machine offers, best first, by making a unit of one frame and dropping it.
///
/// # Errors
/// [`Error::NoPages`] where `choice` names pages that cannot be had; with [`PageChoice::Auto`] only
/// where not even small pages can.
pub fn probe(choice: PageChoice) -> Result<Offer, Error> {
    let _ = choice;
    todo!()
}
