//! What each core did, by the kernel's ticks.

#![forbid(unsafe_code)]

use std::fs;

/// Ticks of one core since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    pub number: u32,
    pub busy: u64,
    /// Taken by other virtual machines.
    pub stolen: u64,
    pub idle: u64,
}

/// All cores that are online; none where the kernel does not tell.
pub fn read() -> Vec<Core> {
    parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// Cores that the scheduler leaves alone, as the kernel lists them.
pub fn isolated() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/isolated").unwrap_or_default();
    list(&text)
}

fn parse(text: &str) -> Vec<Core> {
    let lines = text.lines().filter_map(|line| {
        let (number, ticks) = line.strip_prefix("cpu")?.split_once(' ')?;
        let ticks: Vec<u64> = ticks
            .split(' ')
            .map_while(|tick| tick.parse().ok())
            .collect();
        // user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen.
        let &[user, nice, system, idle, waits, hard, soft, stolen, ..] = ticks.as_slice() else {
            return None;
        };
        Some(Core {
            number: number.parse().ok()?,
            busy: [user, nice, system, hard, soft].iter().sum(),
            stolen,
            idle: idle.saturating_add(waits),
        })
    });
    lines.collect()
}

/// `0-2,5` as numbers.
fn list(text: &str) -> Vec<u32> {
    let parts = text.trim().split(',').filter_map(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some(low.parse::<u32>().ok()?..=high.parse::<u32>().ok()?)
    });
    parts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_lists_are_read() {
        let text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 0 0\ncpu11 1 1\nintr 5\n";
        let core = Core {
            number: 0,
            busy: 19,
            stolen: 8,
            idle: 45,
        };
        assert_eq!(parse(text), [core]);
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(list("\n").is_empty() && list("x-3").is_empty());
    }
}
