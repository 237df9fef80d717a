//! What a loop does when a turn found no work.
//!
//! Polling answers fastest and burns a core; sleeping on a bell costs a wake-up (tens of
//! microseconds on a virtual machine) and leaves the core to others. [`Idle`] is that choice, made
//! by the application, one turn at a time:
//!
//! ```no_run
//! # fn work(_: &mut libexo::port::Port) -> libexo::Result<usize> { Ok(0) }
//! # fn run(mut port: libexo::port::Port) -> libexo::Result<()> {
//! let mut idle = libos::idle::Idle::new(libos::idle::Policy::default());
//! loop {
//!     let done = work(&mut port)?;
//!     idle.turn(done > 0, &mut [&mut port])?;
//! }
//! # }
//! ```

#![forbid(unsafe_code)]

use std::time::Duration;

use libexo::Result;
use libexo::port::Port;

/// Turns without work before an adaptive loop lets others run, about a few microseconds.
const SPIN_TURNS: u32 = 256;

/// Turns without work that only yield before it sleeps. On a shared core each lets the others have
/// their turn; on one of its own they pass in about a hundred microseconds.
const YIELD_TURNS: u32 = 64;

/// Longest sleep: how often a sleeping loop looks around though nobody rang.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Longest sleep of a loop over several ports, of which only one can ring.
const SLEEP_SEVERAL: Duration = Duration::from_millis(1);

/// How to pass the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Poll without pause: for a core of one's own.
    Busy,
    /// Poll, then let others run, then sleep: what fits a core that may be shared.
    #[default]
    Adaptive,
    /// Sleep as soon as there is nothing to do.
    Sleep,
}

/// What a turn without work does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Spin,
    Yield,
    Sleep,
}

impl Policy {
    /// After `idle` turns without work before this one.
    fn step(self, idle: u32) -> Step {
        match self {
            Policy::Busy => Step::Spin,
            Policy::Sleep => Step::Sleep,
            Policy::Adaptive if idle < SPIN_TURNS => Step::Spin,
            Policy::Adaptive if idle < SPIN_TURNS + YIELD_TURNS => Step::Yield,
            Policy::Adaptive => Step::Sleep,
        }
    }
}

/// A loop's idleness so far.
#[derive(Debug)]
pub struct Idle {
    policy: Policy,
    turns: u32,
    sleeps: u64,
}

impl Idle {
    /// No turn yet.
    pub fn new(policy: Policy) -> Idle {
        Idle {
            policy,
            turns: 0,
            sleeps: 0,
        }
    }

    /// Ends a turn: returns at once after one that `worked`, else passes some time as the policy
    /// says. Sleeps on the bell of the first of `ports`; with more than one it looks around every
    /// millisecond.
    #[inline]
    pub fn turn(&mut self, worked: bool, ports: &mut [&mut Port]) -> Result<()> {
        if worked {
            self.turns = 0;
            return Ok(());
        }
        let step = self.policy.step(self.turns);
        self.turns = self.turns.saturating_add(1);
        match step {
            Step::Spin => std::hint::spin_loop(),
            Step::Yield => std::thread::yield_now(),
            Step::Sleep => return self.sleep(ports),
        }
        Ok(())
    }

    /// How often it slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    #[cold]
    fn sleep(&mut self, ports: &mut [&mut Port]) -> Result<()> {
        self.sleeps += 1;
        let limit = if ports.len() > 1 {
            SLEEP_SEVERAL
        } else {
            SLEEP_MAX
        };
        let Some((first, others)) = ports.split_first_mut() else {
            std::thread::sleep(limit);
            return Ok(());
        };
        for port in others {
            // What this side gives back must not wait for its next packet.
            port.flush()?;
        }
        if first.wait(Some(limit))? {
            self.turns = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adaptive_loop_spins_then_yields_then_sleeps() {
        let steps: Vec<Step> = (0..1000).map(|n| Policy::Adaptive.step(n)).collect();
        assert!(steps.is_sorted_by_key(|s| *s as u8));
        assert_eq!(steps[0], Step::Spin);
        assert!(steps.contains(&Step::Yield));
        assert_eq!(steps[999], Step::Sleep);
        assert_eq!(Policy::Busy.step(u32::MAX), Step::Spin);
        assert_eq!(Policy::Sleep.step(0), Step::Sleep);
    }

    #[test]
    fn work_ends_idleness() {
        let mut idle = Idle::new(Policy::Adaptive);
        for _ in 0..100 {
            idle.turn(false, &mut []).expect("no port, no error");
        }
        idle.turn(true, &mut []).expect("no port, no error");
        assert_eq!((idle.turns, idle.sleeps()), (0, 0));
        let mut idle = Idle::new(Policy::Sleep);
        idle.turn(false, &mut []).expect("no port, no error");
        assert_eq!(idle.sleeps(), 1);
    }
}
