//! Lists of cores, as the kernel writes them: `2-3,6`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Highest number of a core: Linux is built for 8,192 at most.
pub const CORE_MAX: u16 = 8191;

/// A set of cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cores(BTreeSet<u16>);

impl Cores {
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a list. Blanks around it are the kernel's.
    ///
    /// # Errors
    /// What is wrong with it, and what a list looks like.
    pub fn parse(text: &str) -> Result<Cores, String> {
        let mut cores = BTreeSet::new();
        let text = text.trim();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => cores.extend(first..=last),
                _ => {
                    return Err(format!(
                        "{text:?} is no list of cores: write \"2-3,6\", with numbers up to {CORE_MAX}"
                    ));
                }
            }
        }
        Ok(Cores(cores))
    }

    /// Those that the other set lacks.
    pub fn minus(&self, other: &Cores) -> Cores {
        Cores(self.0.difference(&other.0).copied().collect())
    }

    /// Those of both sets.
    pub fn plus(&self, other: &Cores) -> Cores {
        Cores(self.0.union(&other.0).copied().collect())
    }
}

fn number(text: &str) -> Option<u16> {
    // `parse` alone would take a plus sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (number <= CORE_MAX).then_some(number)
}

impl TryFrom<String> for Cores {
    type Error = String;

    fn try_from(text: String) -> Result<Cores, String> {
        Cores::parse(&text)
    }
}

impl From<Cores> for String {
    fn from(cores: Cores) -> String {
        cores.to_string()
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        let cases = [
            ("", ""),
            ("3", "3"),
            ("2-3,6\n", "2-3,6"),
            ("0,1,2,9,8", "0-2,8-9"),
            ("1-3,2-5", "1-5"),
            ("8191", "8191"),
        ];
        for (text, canonical) in cases {
            let cores = Cores::parse(text).expect("a list");
            assert_eq!(cores.to_string(), canonical, "{text:?}");
        }
        for wrong in ["a", "3-2", "-1", "1-", "1,,2", "+1", "8192", "1 2", "0x1"] {
            let error = Cores::parse(wrong).expect_err("no list");
            assert!(error.contains("no list of cores"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn sets_subtract_and_add() {
        let set = |text| Cores::parse(text).expect("a list");
        assert_eq!(set("0-5").minus(&set("2-3,9")), set("0-1,4-5"));
        assert_eq!(set("0-1").plus(&set("1-2")), set("0-2"));
        assert!(set("1").minus(&set("0-7")).is_empty());
    }
}
