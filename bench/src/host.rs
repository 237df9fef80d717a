//! The machine that figures come from, and how quiet it was: without both a figure means nothing.
#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::hugepages;

/// Share of time that a hypervisor may take before a figure is doubted.
const STEAL_PERCENT_MAX: f64 = 2.0;
/// Share of time in which somebody waited for a core before a figure is doubted.
const WAITING_PERCENT_MAX: f64 = 10.0;

/// What a reader must know about the machine.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The program that looks, under whose name its lines are found.
    pub bench: &'static str,
    /// Processor model.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// Page kinds on offer: hugepages that are free, transparent hugepages.
    pub pages: String,
    /// Mitigations that are on, by name.
    pub mitigations: String,
    /// Cores of the sender and of the receiver.
    pub cores: [usize; 2],
}

fn text(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Host {
    /// Looks at the machine.
    pub fn look(bench: &'static str, cores: [usize; 2]) -> Self {
        let info = text("/proc/cpuinfo");
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            bench,
            cpu: model.map_or_else(
                || std::env::consts::ARCH.into(),
                |(_, name)| name.to_owned(),
            ),
            kernel: text("/proc/sys/kernel/osrelease"),
            pages: pages(),
            mitigations: mitigations(),
            cores,
        }
    }
}

fn pages() -> String {
    let huge = match hugepages::pool() {
        Ok((0, _)) => "no hugepages".to_owned(),
        Ok((total, free)) => format!("2 MiB hugepages, {free} of {total} free"),
        Err(_) => "no hugepages in this kernel".to_owned(),
    };
    let thp = text("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let chosen = thp.split(['[', ']']).nth(1).unwrap_or("none");
    format!("{huge}, shared transparent hugepages: {chosen}")
}

fn mitigations() -> String {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return "unknown".into();
    };
    let mut on: Vec<String> = entries
        .flatten()
        .filter(|entry| text(&entry.path().to_string_lossy()).starts_with("Mitigation"))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    on.sort();
    if on.is_empty() {
        "none".into()
    } else {
        on.join(" ")
    }
}

/// Cores on which this process may run.
pub fn allowed_cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    Ok((0..CpuSet::count())
        .filter(|&core| set.is_set(core).unwrap_or(false))
        .collect())
}

/// Two cores that are not threads of one core; not the first where there are others, since
/// interrupts go there.
pub fn choose_cores() -> Result<[usize; 2]> {
    let allowed = allowed_cores()?;
    let mut physical: Vec<usize> = Vec::new();
    for core in allowed {
        let siblings = text(&format!(
            "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        ));
        let first = siblings
            .split([',', '-'])
            .next()
            .and_then(|first| first.parse().ok());
        if first.is_none_or(|first| first == core) || !physical.contains(&first.unwrap_or(core)) {
            physical.push(core);
        }
    }
    match physical[..] {
        [_, a, b, ..] => Ok([a, b]),
        [a, b] => Ok([a, b]),
        _ => bail!(
            "two cores are needed, and this process may use {}: see taskset(1)",
            physical.len()
        ),
    }
}

/// How quiet the machine was during a run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Noise {
    /// Share of the time that the hypervisor gave to others.
    pub steal_percent: f64,
    /// Share of the time in which some task waited for a core.
    pub waiting_percent: f64,
}

impl Noise {
    /// The worse of both, figure by figure.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        Self {
            steal_percent: self.steal_percent.max(other.steal_percent),
            waiting_percent: self.waiting_percent.max(other.waiting_percent),
        }
    }

    /// Why figures of such a run should not be trusted.
    pub fn warning(&self) -> Option<String> {
        if self.steal_percent > STEAL_PERCENT_MAX {
            Some(format!(
                "the hypervisor took {:.1} % of the time (steal)",
                self.steal_percent
            ))
        } else if self.waiting_percent > WAITING_PERCENT_MAX {
            Some(format!(
                "other work waited for a core {:.0} % of the time",
                self.waiting_percent
            ))
        } else {
            None
        }
    }
}

/// Watches the kernel's counters from its creation on.
pub struct Watch {
    start: std::time::Instant,
    ticks: Ticks,
    waiting_us: u64,
}

#[derive(Clone, Copy, Default)]
struct Ticks {
    steal: u64,
    total: u64,
}

/// The `cpu` line of /proc/stat: user nice system idle iowait irq softirq steal (then guest, part
/// of user).
fn ticks(stat: &str) -> Ticks {
    let fields = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let fields: Vec<u64> = fields
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    Ticks {
        steal: fields.get(7).copied().unwrap_or(0),
        total: fields.iter().sum(),
    }
}

/// Microseconds in which some task waited for a core, since boot; 0 where the kernel does not count
/// them.
fn waiting_us(pressure: &str) -> u64 {
    let some = pressure.lines().find(|line| line.starts_with("some"));
    some.and_then(|line| line.rsplit_once("total=")?.1.parse().ok())
        .unwrap_or(0)
}

impl Watch {
    /// Starts watching.
    pub fn start() -> Self {
        Self {
            start: std::time::Instant::now(),
            ticks: ticks(&text("/proc/stat")),
            waiting_us: waiting_us(&text("/proc/pressure/cpu")),
        }
    }

    /// What happened since.
    pub fn stop(self) -> Noise {
        let now = ticks(&text("/proc/stat"));
        let total = now.total.saturating_sub(self.ticks.total).max(1) as f64;
        let waited = waiting_us(&text("/proc/pressure/cpu")).saturating_sub(self.waiting_us) as f64;
        let elapsed_us = self.start.elapsed().as_micros().max(1) as f64;
        Noise {
            steal_percent: 100.0 * now.steal.saturating_sub(self.ticks.steal) as f64 / total,
            waiting_percent: 100.0 * waited / elapsed_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let ticks = ticks("cpu  10 1 20 300 5 0 4 60 7 0\ncpu0 1 1 1\n");
        assert_eq!((ticks.steal, ticks.total), (60, 400));
        assert_eq!(
            waiting_us("some avg10=1.00 avg60=0.10 avg300=0.00 total=1234\nfull total=5\n"),
            1234
        );
        assert_eq!(waiting_us(""), 0);
    }

    #[test]
    fn a_stolen_machine_is_named() {
        let noise = Noise {
            steal_percent: 9.0,
            waiting_percent: 0.0,
        };
        assert!(
            noise
                .worse(Noise::default())
                .warning()
                .unwrap()
                .contains("steal")
        );
        assert!(Noise::default().warning().is_none());
    }
}
