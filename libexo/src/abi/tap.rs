//! What a tapped side of a port sends to whoever taps it.
//!
//! Both sides of a port `NAME` that is tapped mirror what they send into the ports `tap:NAME/0` and
//! `tap:NAME/1`. A mirrored packet travels as one or more *parts*, each a packet of the tap port: a
//! [`Part`], then bytes of the mirrored packet. Every packet that the side sends while it knows of
//! the tap has a number, whether or not there was room to mirror it; so a gap in the numbers is a
//! count of drops. A part of a packet of no bytes ends the mirroring and carries the number that
//! the next packet would have had.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{NAME_LEN, PortName};

/// Names of ports that receive what another port's sides send. Only an admin creates them, and only
/// the tapped side joins.
pub const TAP_PREFIX: &str = "tap:";

/// Longest name of a port that can be tapped.
pub const TAPPABLE_LEN: usize = NAME_LEN - TAP_PREFIX.len() - "/0".len();

/// What each part begins with: 16 bytes, little endian.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Part {
    /// The packet's number, from 0 on.
    pub number: u64,
    /// Bytes of the whole packet; zero ends the mirroring.
    pub len: u32,
    /// Where in the packet the bytes that follow belong.
    pub offset: u32,
}

/// Bytes of a [`Part`].
pub const PART_LEN: usize = size_of::<Part>();

const _: () = assert!(PART_LEN == 16);

/// The port that side `side` of `name` mirrors into; none where `name` is too long, or is a tap's.
pub fn tap_name(name: &PortName, side: u8) -> Option<PortName> {
    if name.as_str().starts_with(TAP_PREFIX) {
        return None;
    }
    PortName::new(&format!("{TAP_PREFIX}{name}/{side}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_can_be_tapped() {
        let tapped = |name: &str| tap_name(&PortName::new(name).expect("a name"), 1);
        assert_eq!(tapped("demo"), PortName::new("tap:demo/1"));
        assert_eq!(tapped("tap:demo/0"), None);
        assert!(tapped(&"x".repeat(TAPPABLE_LEN)).is_some());
        assert_eq!(tapped(&"x".repeat(TAPPABLE_LEN + 1)), None);
    }
}
