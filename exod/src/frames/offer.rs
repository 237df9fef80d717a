//! What this machine offers for frames, found out once at start by trying it.
#![forbid(unsafe_code)]

use std::fs;
use std::str::FromStr;

use super::{Error, Hugepages, Maker, PageKind, Protection};

/// Which pages the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    let candidates: &[(PageKind, Protection)] = match choice {
        PageChoice::Auto => &BEST_FIRST,
        PageChoice::Huge2M => &BEST_FIRST[..2],
        PageChoice::Thp => &BEST_FIRST[2..3],
        PageChoice::Small4K => &BEST_FIRST[3..],
    };
    let mut reasons = Vec::new();
    for &(page_kind, protection) in candidates {
        let mut offer = Offer {
            page_kind,
            protection,
            reasons: Vec::new(),
        };
        match attempt(&offer) {
            Ok(()) => {
                offer.reasons = reasons;
                return Ok(offer);
            }
            Err(reason) => {
                let by = match protection {
                    Protection::Mount => " on a private mount",
                    Protection::Seals => "",
                };
                reasons.push(format!("no {} pages{by}: {reason}", page_kind.name()));
            }
        }
    }
    Err(Error::NoPages {
        kind: candidates[0].0,
        reason: reasons.join("; "),
    })
}

const BEST_FIRST: [(PageKind, Protection); 4] = [
    (PageKind::Huge2M, Protection::Mount),
    (PageKind::Huge2M, Protection::Seals),
    (PageKind::Thp, Protection::Seals),
    (PageKind::Small4K, Protection::Seals),
];

/// Makes a unit for real; if it cannot, the reason in a line.
fn attempt(offer: &Offer) -> Result<(), String> {
    if offer.page_kind == PageKind::Huge2M && Hugepages::free() == 0 {
        return Err("none are free: echo 512 > /proc/sys/vm/nr_hugepages".into());
    }
    if offer.page_kind == PageKind::Thp {
        shared_memory_may_be_huge()?;
    }
    let made = Maker::new(offer).and_then(|maker| maker.make(1, None));
    match made {
        Ok(_) => Ok(()),
        Err(Error::NoPages { reason, .. }) => Err(reason),
        Err(e) => Err(e.to_string()),
    }
}

/// Whether the kernel gives huge pages to shared memory that asks for them.
fn shared_memory_may_be_huge() -> Result<(), String> {
    const SWITCH: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let text = fs::read_to_string(SWITCH).map_err(|e| format!("{SWITCH}: {e}"))?;
    let chosen = text.split(['[', ']']).nth(1).unwrap_or("unknown");
    match chosen {
        "always" | "within_size" | "advise" | "force" => Ok(()),
        off => Err(format!("they are set to {off}: echo advise > {SWITCH}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for (text, choice) in [
            ("auto", PageChoice::Auto),
            ("2M", PageChoice::Huge2M),
            ("thp", PageChoice::Thp),
            ("4K", PageChoice::Small4K),
        ] {
            assert_eq!(text.parse::<PageChoice>().ok(), Some(choice));
            let json = format!("{text:?}");
            assert_eq!(serde_json::from_str::<PageChoice>(&json).ok(), Some(choice));
        }
        assert!("1G".parse::<PageChoice>().is_err());
    }

    #[test]
    fn whatever_is_chosen_each_better_way_has_its_reason() {
        let offer = probe(PageChoice::Auto).expect("small pages are everywhere");
        let rank = BEST_FIRST
            .iter()
            .position(|c| *c == (offer.page_kind, offer.protection));
        assert_eq!(rank, Some(offer.reasons.len()), "{:?}", offer.reasons);
        let small = probe(PageChoice::Small4K).expect("small pages are everywhere");
        assert_eq!(small.page_kind, PageKind::Small4K);
        assert!(small.reasons.is_empty(), "asked for, so no excuse needed");
    }
}
