//! Counting inside the window, and finding out what was lost.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use super::{Control, Phase, Report};
use crate::clock;

/// A worker's counters. They start again from zero when the window opens.
///
/// ```text
/// let mut meter = link.ready(json!({}))?;
/// while meter.running() {
///     // one burst
///     meter.count(packets, bytes);
/// }
/// Ok(meter.report())
/// ```
pub struct Meter {
    control: Arc<Control>,
    phase: Phase,
    start: Instant,
    start_cycles: u64,
    report: Report,
    /// Which packets came; lossy links call `sequence.saw(seq)` for each.
    pub sequence: Sequence,
}

impl Meter {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            phase: Phase::WarmUp,
            start: Instant::now(),
            start_cycles: clock::cycles(),
            report: Report::default(),
            sequence: Sequence::default(),
        }
    }

    /// Whether to go on; call it once per burst. One load unless the phase changed.
    #[inline(always)]
    pub fn running(&mut self) -> bool {
        let phase = self.control.phase();
        if phase == self.phase {
            phase != Phase::Stop
        } else {
            self.turn(phase)
        }
    }

    /// Whether the window is open, for those who count something of their own.
    #[inline(always)]
    pub fn in_window(&self) -> bool {
        self.phase == Phase::Window
    }

    /// The shared phase itself, for a thread of the worker beside the one that counts.
    pub fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    #[cold]
    fn turn(&mut self, phase: Phase) -> bool {
        if phase == Phase::Stop {
            self.close();
        } else {
            let details = std::mem::take(&mut self.report.details);
            self.report = Report {
                details,
                ..Report::default()
            };
            self.sequence.lost = 0;
            self.start = Instant::now();
            self.start_cycles = clock::cycles();
        }
        self.phase = phase;
        phase != Phase::Stop
    }

    fn close(&mut self) {
        if self.phase == Phase::Window {
            self.report.cycles = clock::cycles().wrapping_sub(self.start_cycles);
            self.report.elapsed_ns = self.start.elapsed().as_nanos() as u64;
        }
    }

    /// Adds packets that were sent, or received and found good.
    #[inline(always)]
    pub fn count(&mut self, packets: u64, bytes: u64) {
        self.report.packets += packets;
        self.report.bytes += bytes;
    }

    /// Adds packets whose bytes were wrong.
    #[inline(always)]
    pub fn corrupt(&mut self, packets: u64) {
        self.report.corrupt += packets;
    }

    /// Checks a received packet of a link that may lose some: counts it, and its gap or its damage.
    #[inline(always)]
    pub fn receive(&mut self, packet: &[u8]) {
        match crate::pattern::sequence(packet) {
            Some(seq) => {
                self.sequence.saw(seq);
                self.count(1, packet.len() as u64);
            }
            None => self.corrupt(1),
        }
    }

    /// Adds a detail to the report.
    pub fn detail(&mut self, key: &str, value: impl Into<serde_json::Value>) {
        self.report.details.insert(key.to_owned(), value.into());
    }

    /// The counts of the window, also when the link ended before the parent said stop.
    pub fn report(mut self) -> Report {
        if self.phase != Phase::Stop {
            self.close();
        }
        self.report.lost = self.sequence.lost();
        self.report
    }
}

/// Finds lost packets by their numbers: a gap counts, a late arrival takes it back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequence {
    next: u64,
    lost: i64,
}

impl Sequence {
    /// Takes the number of a packet that arrived.
    #[inline(always)]
    pub fn saw(&mut self, seq: u64) {
        if seq >= self.next {
            self.lost += (seq - self.next) as i64;
            self.next = seq + 1;
        } else {
            self.lost -= 1;
        }
    }

    /// Takes `count` packets of a link that loses nothing and keeps the order.
    #[inline(always)]
    pub fn saw_next(&mut self, count: u64) {
        self.next += count;
    }

    /// The number that comes next if nothing is lost.
    #[inline(always)]
    pub fn expected(&self) -> u64 {
        self.next
    }

    /// Packets that are missing by now.
    pub fn lost(&self) -> u64 {
        self.lost.max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_losses_until_the_packet_comes_late() {
        let mut sequence = Sequence::default();
        [0, 1, 4, 2].into_iter().for_each(|seq| sequence.saw(seq));
        assert_eq!((sequence.lost(), sequence.expected()), (1, 5));
        sequence.saw(3);
        assert_eq!(sequence.lost(), 0);
    }

    #[test]
    fn only_the_window_counts() {
        let control = Arc::new(Control::create().unwrap());
        let mut meter = Meter::new(control.clone());
        assert!(meter.running());
        meter.count(5, 50);
        meter.sequence.saw(9);
        control.set(Phase::Window);
        assert!(meter.running() && meter.in_window());
        meter.count(2, 20);
        meter.sequence.saw(11);
        control.set(Phase::Stop);
        assert!(!meter.running());
        let report = meter.report();
        assert_eq!((report.packets, report.bytes, report.lost), (2, 20, 1));
        assert!(report.elapsed_ns > 0);
    }
}
