//! How things are shown: colours on terminals, amounts, times, and foreign text made harmless.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::IsTerminal;

/// The colours that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// All is well.
    Green,
    /// Worth a look.
    Yellow,
    /// Wrong.
    Red,
    /// Less important.
    Dim,
}

/// Whether colours are shown.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// On a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub fn stdout() -> Paint {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Paint(std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    /// Colours or none.
    pub fn is_on(self) -> bool {
        self.0
    }

    /// The text in a colour.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Green => 32,
            Ink::Yellow => 33,
            Ink::Red => 31,
            Ink::Dim => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Bytes as people say them: `64 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut unit, mut whole, mut rest) = (0, count, 0);
    while whole >= 1024 && unit + 1 < UNITS.len() {
        (rest, whole, unit) = (whole % 1024, whole / 1024, unit + 1);
    }
    if rest == 0 || whole >= 10 {
        return format!("{whole} {}", UNITS[unit]);
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
}

/// A count or rate in few characters: `12.3M`.
pub fn amount(count: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut unit, mut left) = (0, count);
    while left >= 1000.0 && unit + 1 < UNITS.len() {
        (left, unit) = (left / 1000.0, unit + 1);
    }
    if unit == 0 || left >= 100.0 {
        return format!("{left:.0}{}", UNITS[unit]);
    }
    format!("{left:.1}{}", UNITS[unit])
}

/// A span of time in its two largest units: `3 h 12 min`.
pub fn span(seconds: u64) -> String {
    let (d, h, m, s) = (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (d, h, m) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{m} min {s} s"),
        (0, ..) => format!("{h} h {m} min"),
        _ => format!("{d} d {h} h"),
    }
}

/// A latency: `1.5 us`.
pub fn latency(ns: u64) -> String {
    match ns {
        0..1000 => format!("{ns} ns"),
        1000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Text of others, so that it cannot speak to the terminal.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        return Cow::Owned(
            text.chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect(),
        );
    }
    Cow::Borrowed(text)
}

/// The name of a user, where there is one.
pub fn user(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    match user {
        Ok(Some(user)) => harmless(&user.name).into_owned(),
        _ => uid.to_string(),
    }
}

/// Whole seconds since a time in milliseconds since 1970; none since one that is yet to come.
pub fn seconds_since(ms: u64) -> u64 {
    now_ms().saturating_sub(ms) / 1000
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    exod::counters::unix_ms(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        let shown = [0, 1, 1023, 1024, 1536, 64 << 20, u64::MAX].map(bytes);
        let expected = [
            "0 B",
            "1 B",
            "1023 B",
            "1 KiB",
            "1.5 KiB",
            "64 MiB",
            "16383 PiB",
        ];
        assert_eq!(shown, expected);
        let shown = [0.0, 999.4, 1234.0, 45.6e6, 2e13].map(amount);
        assert_eq!(shown, ["0", "999", "1.2k", "45.6M", "20.0T"]);
        assert_eq!(
            [59, 60, 3700, 90_000].map(span),
            ["59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]
        );
        let shown = [256, 2048, 3_000_000, 1 << 36].map(latency);
        assert_eq!(shown, ["256 ns", "2.0 us", "3.0 ms", "68.7 s"]);
    }

    #[test]
    fn foreign_text_cannot_speak_to_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\u{9b}c\n"), "a?[2Jb?c?");
        assert_eq!(harmless("plain"), "plain");
        assert!(!Paint(false).ink(Ink::Red, "x").contains('\u{1b}'));
    }
}
