//! The promises: each names our row, the rows that it is held against, and the ratio to reach.
//!
//! The table is the contract; how it is measured and printed is in `verify`.
#![forbid(unsafe_code)]

/// The burst at which throughputs are held against each other.
pub const BURST: usize = 32;

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The ratio must be at least the goal.
    Higher,
    /// The ratio must be at most the goal.
    Lower,
    /// The ratio must be less than the goal: as good is not better.
    Below,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub enum Against {
    /// The best of the rows with these names; a name that ends in `*` stands for all that begin so.
    Best(&'static [&'static str]),
    /// A fixed limit in the metric's unit. Zero means that the figure itself must be zero.
    Limit(f64),
}

/// One promise.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name; begins with its group.
    pub name: &'static str,
    /// Our row.
    pub ours: &'static str,
    /// The metric, as in a record.
    pub metric: &'static str,
    /// Bytes of a packet.
    pub size: usize,
    /// Whom it is held against.
    pub against: Against,
    /// The ratio ours / theirs to reach.
    pub goal: f64,
    /// Which way is good.
    pub better: Better,
}

/// DPDK memif whose receiver looks at descriptors only: testpmd's, of every build, and ours.
const MEMIF: Against = Against::Best(&["memif-zc-*", "memif-copy-*", "memif-peer-*"]);
/// DPDK memif whose receiver reads every byte.
const MEMIF_READ: Against = Against::Best(&["memif-read*"]);
const FLOOR: Against = Against::Best(&["line-stream"]);
const UDP_GSO: Against = Against::Best(&["udp-gso"]);
/// Every memif row that has a round trip.
const MEMIF_ANY: Against = Against::Best(&["memif*"]);

const fn higher(
    name: &'static str,
    (ours, metric, size): (&'static str, &'static str, usize),
    against: Against,
    goal: f64,
) -> Target {
    Target {
        name,
        ours,
        metric,
        size,
        against,
        goal,
        better: Better::Higher,
    }
}

const fn lower(
    name: &'static str,
    ours: (&'static str, &'static str, usize),
    against: Against,
    goal: f64,
) -> Target {
    Target {
        better: Better::Lower,
        ..higher(name, ours, against, goal)
    }
}

const fn below(
    name: &'static str,
    ours: (&'static str, &'static str, usize),
    against: Against,
    goal: f64,
) -> Target {
    Target {
        better: Better::Below,
        ..higher(name, ours, against, goal)
    }
}

/// All promises of netbench.
pub const TARGETS: &[Target] = &[
    higher(
        "port-descriptors-64-vs-memif",
        ("port-descriptors", "rate", 64),
        MEMIF,
        2.0,
    ),
    higher(
        "port-64-vs-memif-read",
        ("port", "rate", 64),
        MEMIF_READ,
        1.5,
    ),
    higher("port-64-vs-floor", ("port", "rate", 64), FLOOR, 0.7),
    higher(
        "port-1518-vs-floor",
        ("port", "bandwidth", 1518),
        FLOOR,
        0.8,
    ),
    higher(
        "port-9000-vs-floor",
        ("port", "bandwidth", 9000),
        FLOOR,
        0.8,
    ),
    higher(
        "port-1518-vs-udp-gso",
        ("port", "bandwidth", 1518),
        UDP_GSO,
        1.1,
    ),
    higher(
        "port-9000-vs-udp-gso",
        ("port", "bandwidth", 9000),
        UDP_GSO,
        1.1,
    ),
    higher(
        "port-1518-vs-memif-read",
        ("port", "bandwidth", 1518),
        MEMIF_READ,
        1.5,
    ),
    higher(
        "port-9000-vs-memif-read",
        ("port", "bandwidth", 9000),
        MEMIF_READ,
        1.5,
    ),
    higher(
        "l2fwd-64-vs-memif-macswap",
        ("l2fwd", "rate", 64),
        Against::Best(&["memif-macswap*"]),
        1.5,
    ),
    lower(
        "rtt-64-p50-vs-pingpong",
        ("port", "rtt-p50", 64),
        Against::Best(&["pingpong"]),
        1.3,
    ),
    lower(
        "rtt-64-p50-vs-memif",
        ("port", "rtt-p50", 64),
        MEMIF_ANY,
        0.45,
    ),
    below(
        "rtt-64-p50-vs-rte-ring",
        ("port", "rtt-p50", 64),
        Against::Best(&["rte-ring"]),
        1.0,
    ),
    lower(
        "rtt-64-p999-vs-memif",
        ("port", "rtt-p999", 64),
        MEMIF_ANY,
        1.0,
    ),
    lower(
        "attach-first-packet-ms",
        ("port", "attach", 64),
        Against::Limit(2.0),
        1.0,
    ),
    lower(
        "port-64-syscalls-per-packet",
        ("port", "syscalls-per-packet", 64),
        Against::Limit(0.0),
        0.0,
    ),
];

impl Against {
    /// Whether a row is one of those that count.
    pub fn names(&self, row: &str) -> bool {
        let Self::Best(names) = self else {
            return false;
        };
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(prefix) => row.starts_with(prefix),
            None => row == *name,
        })
    }
}

impl Target {
    /// The ratio of two figures; against a limit of zero, the figure itself.
    pub fn ratio(&self, ours: f64, theirs: f64) -> f64 {
        if matches!(self.against, Against::Limit(0.0)) {
            ours
        } else {
            ours / theirs
        }
    }

    /// Whether a ratio keeps the promise. A ratio that is not a number does not.
    pub fn met(&self, ratio: f64) -> bool {
        match self.better {
            Better::Higher => ratio >= self.goal,
            Better::Lower => ratio <= self.goal,
            Better::Below => ratio < self.goal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_begin_with_a_group() {
        for (index, target) in TARGETS.iter().enumerate() {
            let others = &TARGETS[index + 1..];
            assert!(
                others.iter().all(|other| other.name != target.name),
                "{}",
                target.name
            );
            let groups = ["port-", "l2fwd-", "rtt-", "attach-"];
            assert!(
                groups.iter().any(|group| target.name.starts_with(group)),
                "{}",
                target.name
            );
        }
    }

    #[test]
    fn a_star_stands_for_all_that_begin_so() {
        assert!(MEMIF_READ.names("memif-read-server-tx") && !MEMIF_READ.names("memif"));
        assert!(MEMIF.names("memif-zc-server-tx-native") && MEMIF.names("memif-peer-zc-client-tx"));
        for other in [
            "memif",
            "memif-copy",
            "memif-read-zc-client-tx",
            "memif-macswap",
        ] {
            assert!(!MEMIF.names(other), "{other}");
        }
        assert!(!Against::Limit(1.0).names("port"));
    }

    #[test]
    fn as_good_as_is_not_below() {
        let below = TARGETS.iter().filter(|t| t.better == Better::Below);
        let names: Vec<&str> = below.clone().map(|target| target.name).collect();
        assert_eq!(names, ["rtt-64-p50-vs-rte-ring"]);
        for target in below {
            assert!(target.met(0.999 * target.goal) && !target.met(target.goal));
        }
    }

    #[test]
    fn nothing_is_met_by_not_being_measured() {
        for target in TARGETS {
            assert!(!target.met(f64::NAN), "{}", target.name);
        }
    }
}
