//! Families of samples, and their text.
//!
//! Names follow Prometheus' conventions: base units, `_total` for what only rises, the unit last.
//! Label values may hold anything a process calls itself; they are escaped.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;

use libexo::abi::counters::{self, Counter, Job};
use libexo::abi::wire::{ErrorCode, Op};
use libexo::client::SessionInfo;
use libexo::counters::Histogram;

use crate::view::{Domain, Port, View};

/// Where the kernel says what hugepages it has.
const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";

type Labels = Vec<(&'static str, String)>;

/// What the samples of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Sample {
    pub suffix: &'static str,
    pub labels: Labels,
    pub value: f64,
}

/// Samples of one name.
#[derive(Clone, Debug)]
pub struct Family {
    pub name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<Sample>,
}

impl Family {
    fn new(kind: Kind, name: &'static str, help: &'static str) -> Family {
        Family {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    fn with(mut self, labels: Labels, value: f64) -> Family {
        self.samples.push(Sample {
            suffix: "",
            labels,
            value,
        });
        self
    }

    fn each(self, items: impl IntoIterator<Item = (Labels, f64)>) -> Family {
        items
            .into_iter()
            .fold(self, |family, (labels, value)| family.with(labels, value))
    }

    /// Buckets are cumulative in the text; their bounds are seconds.
    fn histogram(mut self, key: &'static str, value: &str, of: &Histogram) -> Family {
        let mut add = |suffix, bound: Option<String>, value_of: f64| {
            let mut labels = vec![(key, value.to_owned())];
            labels.extend(bound.map(|bound| ("le", bound)));
            self.samples.push(Sample {
                suffix,
                labels,
                value: value_of,
            });
        };
        let mut all = 0u64;
        for (at, more) in of.buckets.iter().enumerate() {
            all = all.wrapping_add(*more);
            let bound = counters::bucket_end_ns(at);
            let bound = bound.map_or("+Inf".to_owned(), |ns| (ns as f64 / 1e9).to_string());
            add("_bucket", Some(bound), all as f64);
        }
        add("_sum", None, of.sum_ns as f64 / 1e9);
        add("_count", None, all as f64);
        self
    }

    /// All lines.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(Kind::Counter, name, help)
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::new(Kind::Gauge, name, help)
}

fn label(key: &'static str, value: impl ToString) -> Labels {
    vec![(key, value.to_string())]
}

/// Whether exod answers.
pub fn up(is: bool) -> Family {
    gauge("exod_up", "Whether exod answers.").with(Labels::new(), f64::from(u8::from(is)))
}

/// Everything that there is to say.
pub fn families(view: &View, session: SessionInfo) -> Vec<Family> {
    let mut all = vec![up(true)];
    all.extend(ledger(view, session));
    all.extend(events(view));
    all.extend(latencies(view));
    all.extend(domains(&view.domains));
    all.extend(ports(&view.ports));
    all.extend(hugepages());
    all.retain(|family| !family.samples.is_empty());
    all
}

fn ledger(view: &View, session: SessionInfo) -> Vec<Family> {
    let (ledger, work) = (&view.ledger, &view.work);
    let one = |name, help, value: u64| gauge(name, help).with(Labels::new(), value as f64);
    let units = ledger.objects.saturating_sub(work.port_sides);
    let states = [
        ("free", ledger.frames_free),
        ("owned", ledger.frames_owned),
        ("pinned", ledger.frames_pinned),
    ];
    let kinds = [("unit", units), ("port_side", work.port_sides)];
    let labelled = |key, pairs: &[(&str, u64)]| {
        let samples = pairs
            .iter()
            .map(|(value, count)| (label(key, value), *count as f64));
        samples.collect::<Vec<_>>()
    };
    vec![
        gauge("exod_info", "Which pages exod hands out.")
            .with(label("pages", session.page_kind.name()), 1.0),
        gauge("exod_start_time_seconds", "When exod started, since 1970.")
            .with(Labels::new(), view.counters.started_ms() as f64 / 1e3),
        one(
            "exod_frame_bytes",
            "Bytes of a frame.",
            session.frame_bytes as u64,
        ),
        gauge("exod_frames", "Frames; pinned ones are owned too.").each(labelled("state", &states)),
        gauge("exod_objects", "Objects in use, by kind.").each(labelled("kind", &kinds)),
        one(
            "exod_domains",
            "Domains that hold something.",
            ledger.domains,
        ),
        one("exod_sessions", "Sessions.", work.sessions),
        one(
            "exod_capabilities",
            "Capabilities in use.",
            ledger.capabilities,
        ),
        one("exod_jobs", "Slow kernel calls under way.", work.jobs),
        one(
            "exod_closes",
            "Foreign descriptors not closed yet.",
            work.closes,
        ),
        one(
            "exod_objects_unbinding",
            "Objects being taken back.",
            work.unbinding,
        ),
        one(
            "exod_objects_pinned",
            "Objects that something still pins.",
            work.pinned,
        ),
    ]
}

fn events(view: &View) -> Vec<Family> {
    let count = |of: Counter| view.counters.counter(of) as f64;
    let one = |name, help, of| counter(name, help).with(Labels::new(), count(of));
    let ends = [
        Counter::EndedHungUp,
        Counter::EndedDied,
        Counter::EndedViolation,
        Counter::EndedUnwelcome,
        Counter::EndedFailed,
    ];
    let ends = ends.map(|end| (label("reason", end.name()), count(end)));
    let codes = ErrorCode::ALL.map(|code| {
        let refusals = view.counters.refusals(code) as f64;
        (label("code", format!("{code:?}")), refusals)
    });
    vec![
        one(
            "exod_sessions_begun_total",
            "Connections that were accepted.",
            Counter::SessionsBegun,
        ),
        one(
            "exod_sessions_refused_total",
            "Connections that were turned away.",
            Counter::SessionsRefused,
        ),
        counter(
            "exod_sessions_ended_total",
            "Sessions that ended, by reason.",
        )
        .each(ends),
        one(
            "exod_grants_total",
            "Capabilities granted.",
            Counter::Grants,
        ),
        one(
            "exod_losses_total",
            "Capabilities taken by force.",
            Counter::Losses,
        ),
        counter("exod_refusals_total", "Requests refused, by error.").each(codes),
        one(
            "exod_loop_turns_total",
            "How often exod's loop woke.",
            Counter::Turns,
        ),
        one(
            "exod_audit_events_total",
            "Events for the audit trail.",
            Counter::AuditEvents,
        ),
        one(
            "exod_audit_lost_total",
            "Of these, lost.",
            Counter::AuditLost,
        ),
    ]
}

fn latencies(view: &View) -> Vec<Family> {
    let requests = Family::new(
        Kind::Histogram,
        "exod_request_duration_seconds",
        "From when a request was read until its answer was ready.",
    );
    let requests = Op::ALL.into_iter().fold(requests, |family, op| {
        family.histogram("op", &format!("{op:?}"), &view.counters.requests(Some(op)))
    });
    let requests = requests.histogram("op", "unknown", &view.counters.requests(None));
    let jobs = Family::new(
        Kind::Histogram,
        "exod_job_duration_seconds",
        "From when a slow kernel call was posted until it was done.",
    );
    let jobs = Job::ALL.iter().fold(jobs, |family, job| {
        family.histogram("job", job.name(), &view.counters.jobs(*job))
    });
    vec![requests, jobs]
}

fn domains(domains: &[Domain]) -> Vec<Family> {
    let each = |family: Family, value: fn(&Domain) -> u64| {
        family.each(domains.iter().map(|domain| {
            let info = &domain.info;
            let labels = vec![
                ("domain", info.domain.to_string()),
                ("uid", info.uid.to_string()),
                ("pid", info.pid.to_string()),
                ("comm", info.name.as_str().to_owned()),
            ];
            (labels, value(domain) as f64)
        }))
    };
    vec![
        each(
            gauge("exod_domain_frames", "Frames charged to a domain."),
            |domain| domain.ledger.frames_owned,
        ),
        each(
            gauge(
                "exod_domain_capabilities",
                "Capabilities that a domain holds.",
            ),
            |domain| domain.ledger.capabilities,
        ),
        each(
            gauge("exod_domain_port_sides", "Port sides of a domain."),
            |domain| domain.activity.port_sides,
        ),
        each(
            counter("exod_domain_requests_total", "Requests of a domain."),
            |domain| domain.activity.requests,
        ),
        each(
            counter(
                "exod_domain_refusals_total",
                "Requests of a domain that were refused.",
            ),
            |domain| domain.activity.refused,
        ),
        each(
            counter(
                "exod_domain_grants_total",
                "Capabilities granted to a domain.",
            ),
            |domain| domain.activity.granted,
        ),
        each(
            counter(
                "exod_domain_losses_total",
                "Capabilities taken from a domain by force.",
            ),
            |domain| domain.activity.lost,
        ),
    ]
}

fn ports(ports: &[Port]) -> Vec<Family> {
    let labels = |port: &Port| {
        vec![
            ("port", port.info.name.as_str().to_owned()),
            ("number", port.info.port.to_string()),
        ]
    };
    let sides = ports.iter().flat_map(|port| {
        (0..2).filter_map(move |side| {
            let domain = port.info.sides[side]?;
            let mut labels = labels(port);
            labels.push(("side", side.to_string()));
            labels.push(("domain", domain.to_string()));
            Some((labels, port.counts.sent[side] as f64))
        })
    });
    let tapped = ports
        .iter()
        .map(|port| (labels(port), f64::from(u8::from(port.info.brief.tapped))));
    vec![
        counter(
            "exod_port_descriptors_total",
            "Descriptors (pieces of packets) that a side of a port has sent, as it says itself.",
        )
        .each(sides),
        gauge("exod_port_tapped", "Whether a port is tapped.").each(tapped),
    ]
}

/// The kernel's pools, which are this machine's and not only exod's.
fn hugepages() -> Vec<Family> {
    let mut family = gauge(
        "exod_host_hugepages",
        "The kernel's hugepages, by size and state.",
    );
    for size in fs::read_dir(HUGEPAGES).into_iter().flatten().flatten() {
        let name = size.file_name();
        let kib = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB"));
        let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) else {
            continue;
        };
        for state in ["nr", "free", "resv", "surplus"] {
            let text = fs::read_to_string(size.path().join(format!("{state}_hugepages")));
            let count = text.ok().and_then(|text| text.trim().parse::<f64>().ok());
            let state = if state == "nr" { "all" } else { state };
            let labels = vec![
                ("bytes", (kib << 10).to_string()),
                ("state", state.to_owned()),
            ];
            family = family.each(count.map(|count| (labels, count)));
        }
    }
    vec![family]
}

/// The text format, version 0.0.4.
pub fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for Family {
        name,
        help,
        kind,
        samples,
    } in families
    {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // A string takes everything.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for sample in samples {
            let _ = write!(text, "{name}{}", sample.suffix);
            for (at, (key, value)) in sample.labels.iter().enumerate() {
                let open = if at == 0 { '{' } else { ',' };
                let _ = write!(text, "{open}{key}=\"{}\"", escaped(value));
            }
            let close = if sample.labels.is_empty() { "" } else { "}" };
            let _ = writeln!(text, "{close} {}", sample.value);
        }
    }
    text
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_calls_itself_stays_in_its_quotes() {
        let family = gauge("x", "y").with(label("comm", "a\"} 1\nevil{b=\"\\"), 1.5);
        let expected = "# HELP x y\n# TYPE x gauge\nx{comm=\"a\\\"} 1\\nevil{b=\\\"\\\\\"} 1.5\n";
        assert_eq!(render(&[family]), expected);
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut latencies = Histogram::default();
        latencies.buckets[0] = 2;
        latencies.buckets[2] = 3;
        latencies.sum_ns = 1_500_000_000;
        let family = Family::new(Kind::Histogram, "d", "h").histogram("op", "Ping", &latencies);
        let text = render(&[family]);
        for line in [
            "d_bucket{op=\"Ping\",le=\"0.000000256\"} 2",
            "d_bucket{op=\"Ping\",le=\"0.000000512\"} 2",
            "d_bucket{op=\"Ping\",le=\"0.000001024\"} 5",
            "d_bucket{op=\"Ping\",le=\"+Inf\"} 5",
            "d_sum{op=\"Ping\"} 1.5",
            "d_count{op=\"Ping\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
