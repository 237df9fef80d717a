//! A time limit that does not run while nobody does: a machine that sleeps, or a run that is
//! stopped as a whole and goes on later, costs no test its time.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What one look at the clock may cost. Whoever looks often sees longer steps only when stopped.
const STEP: Duration = Duration::from_secs(1);

/// A time limit, for somebody who looks several times a second.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// A limit that begins now.
    pub fn seconds(seconds: u64) -> Patience {
        Patience {
            left: Duration::from_secs(seconds),
            looked: Instant::now(),
        }
    }

    /// Whether it is over.
    pub fn is_over(&mut self) -> bool {
        self.is_over_at(Instant::now())
    }

    fn is_over_at(&mut self, now: Instant) -> bool {
        let step = now.saturating_duration_since(self.looked).min(STEP);
        self.looked = now;
        self.left = self.left.saturating_sub(step);
        self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_out_by_looking_and_not_by_sleeping() {
        let mut patience = Patience::seconds(3);
        let mut now = Instant::now();
        for _ in 0..2 {
            now += Duration::from_secs(3600);
            assert!(!patience.is_over_at(now));
        }
        for _ in 0..9 {
            now += Duration::from_millis(100);
            assert!(!patience.is_over_at(now));
        }
        assert!(patience.is_over_at(now + Duration::from_millis(200)));
    }
}
