//! Cycles of the timestamp counter, and how long one takes.
//!
//! The counter is read without a system call (about 10 ns), which a round trip of 300 ns can bear.
//! Where there is none (other architectures), a cycle is a nanosecond of the monotonic clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the counter is watched against the clock: 20 ms give an error below 0.1 %.
const CALIBRATION: Duration = Duration::from_millis(20);

/// The timestamp counter now.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn cycles() -> u64 {
    // SAFETY: rdtsc exists on every x86-64 processor and reads nothing but a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since this program first asked.
#[cfg(not(target_arch = "x86_64"))]
pub fn cycles() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds of one cycle, measured once per process.
pub fn ns_per_cycle() -> f64 {
    static RATIO: OnceLock<f64> = OnceLock::new();
    *RATIO.get_or_init(|| {
        let (start, first) = (Instant::now(), cycles());
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let ns = start.elapsed().as_nanos() as f64;
        ns / cycles().wrapping_sub(first).max(1) as f64
    })
}
