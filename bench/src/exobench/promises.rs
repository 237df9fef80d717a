//! What exod and exo promise, each against a fixed limit: what a person or a service manager that
//! waits for them notices.
#![forbid(unsafe_code)]

use crate::targets::{Against, Better, Target};

use super::SIZE;

const fn within(
    name: &'static str,
    (ours, metric): (&'static str, &'static str),
    limit: f64,
    better: Better,
) -> Target {
    Target {
        name,
        ours,
        metric,
        size: SIZE,
        against: Against::Limit(limit),
        // Of the limit; where the limit is zero, the figure itself.
        goal: if limit == 0.0 { 0.0 } else { 1.0 },
        better,
    }
}

/// All promises of exobench.
pub(super) const TARGETS: &[Target] = &[
    within("start-ready", ("start", "p50"), 150.0, Better::Below),
    within(
        "start-idle-wakeups",
        ("idle", "wakeups"),
        0.0,
        Better::Lower,
    ),
    within("start-idle-rss", ("idle", "rss"), 16.0, Better::Below),
    within("exo-status", ("exo-status", "p50"), 20.0, Better::Below),
    within("exo-doctor", ("exo-doctor", "p50"), 200.0, Better::Below),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exobench::rows::{self, Programs};

    #[test]
    fn every_promise_is_about_a_row_and_none_is_met_by_not_being_measured() {
        let rows = rows::all(&Programs::find(None, None));
        for target in TARGETS {
            assert!(rows.iter().any(|row| row.name() == target.ours));
            assert!(!target.met(f64::NAN), "{}", target.name);
        }
    }
}
