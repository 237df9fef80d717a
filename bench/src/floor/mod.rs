//! The machine's own limits: cache lines between two cores, with nothing around them.
//!
//! `pingpong` bounces two lines, each written by one side: no exchange of a packet and its answer
//! can be faster. `line-stream` has one core write packets line by line and the other read them,
//! with the buffers, the order and the flow control of a port, and not one instruction for anything
//! else. It tries several rings, prefetch distances and ways to say "here it is", and keeps the
//! best, since which one is best depends on the machine. A port above this floor means that the
//! floor is wrong.

mod memory;
mod pingpong;
mod stream;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::row::{Kind, Plan, Row, Throughput};
use crate::worker::{Job, Link, Mode, Report, Role, Team};

use memory::Memory;
use stream::Variant;

/// Window of one trial: enough for thousands of laps of the largest ring.
const TRIAL: Duration = Duration::from_millis(60);

struct PingPong;

struct LineStream {
    /// The best variant by size and burst, once it was found.
    best: Mutex<Vec<((usize, usize), Variant)>>,
}

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    vec![
        Box::new(LineStream {
            best: Mutex::new(Vec::new()),
        }),
        Box::new(PingPong),
    ]
}

/// One run of two workers over shared memory.
fn run(row: &dyn Row, plan: &Plan, mode: Mode, args: &Value) -> Result<(Report, Report)> {
    let memory = Memory::create()?;
    let mut team = Team::new(row.name(), plan, mode)?;
    for role in [Role::Receiver, Role::Sender] {
        team.start(role, args.clone(), vec![memory.share()?])?;
    }
    team.run_pair()
}

impl Row for PingPong {
    fn name(&self) -> &str {
        "pingpong"
    }

    fn about(&self) -> &str {
        "floor: two cache lines bounced between the cores, each written by one side"
    }

    fn kind(&self) -> Kind {
        Kind::Floor
    }

    fn supports(&self, size: usize) -> bool {
        size == 64
    }

    fn has_throughput(&self) -> bool {
        false
    }

    fn has_round_trip(&self) -> bool {
        true
    }

    fn throughput(&self, _plan: &Plan) -> Result<Throughput> {
        anyhow::bail!("a ping-pong has no throughput")
    }

    fn round_trip(&self, plan: &Plan) -> Result<Option<Histogram<u64>>> {
        let (sender, _) = run(self, plan, Mode::RoundTrip, &json!({}))?;
        sender.histogram().map(Some)
    }

    fn work(&self, mut job: Job, mut link: Link) -> Result<Report> {
        let memory = Memory::open(job.fds.pop().context("no memory was passed")?)?;
        let meter = link.ready(json!({}))?;
        pingpong::work(job.role, meter, &memory)
    }
}

impl LineStream {
    fn variant(&self, plan: &Plan) -> Result<Variant> {
        let key = (plan.size, plan.burst);
        let known = |best: &Vec<_>| best.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        if let Some(variant) = known(&self.best.lock().expect("no holder panics")) {
            return Ok(variant);
        }
        let trial = Plan {
            duration: TRIAL,
            warm_up: TRIAL / 4,
            ..plan.clone()
        };
        let mut best: Option<(f64, Variant)> = None;
        for variant in stream::variants(plan.size, plan.burst) {
            let rate = self.measure(&trial, variant)?.mpps();
            if best.is_none_or(|(top, _)| rate > top) {
                best = Some((rate, variant));
            }
        }
        let (_, variant) = best.context("no ring fits packets of this size")?;
        self.best
            .lock()
            .expect("no holder panics")
            .push((key, variant));
        Ok(variant)
    }

    fn measure(&self, plan: &Plan, variant: Variant) -> Result<Throughput> {
        let args = serde_json::to_value(variant)?;
        let (sender, receiver) = run(self, plan, Mode::Throughput, &args)?;
        Ok(Throughput::from_reports(sender, receiver))
    }
}

impl Row for LineStream {
    fn name(&self) -> &str {
        "line-stream"
    }

    fn about(&self) -> &str {
        "floor: lines written by one core and read by the other, in a port's order and flow control"
    }

    fn kind(&self) -> Kind {
        Kind::Floor
    }

    fn supports(&self, size: usize) -> bool {
        (16..=stream::SIZE_MAX).contains(&size)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let variant = self.variant(plan)?;
        self.measure(plan, variant)
    }

    fn work(&self, mut job: Job, mut link: Link) -> Result<Report> {
        let memory = Memory::open(job.fds.pop().context("no memory was passed")?)?;
        let variant: Variant = serde_json::from_value(job.args.take())?;
        let meter = link.ready(json!({}))?;
        let report = stream::work(&job, variant, meter, &memory)?;
        Ok(report
            .with("device", "memory")
            .with("driver", "none")
            .with("page", memory.page())
            .with("mode", variant.mode())
            .with("ring", variant.slots)
            .with("prefetch", variant.prefetch)
            .with("stride", job.plan.size.next_multiple_of(64)))
    }
}
