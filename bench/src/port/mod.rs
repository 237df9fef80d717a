//! Rows of this project's own ports: an exod embedded in netbench, two or three workers that hold
//! only what it granted them.
//!
//! The ring and the buffers are chosen for the packet size, as an application that knows its
//! packets would: buffers no larger than a packet, and as many as stay in the second-level cache.
#![forbid(unsafe_code)]

mod attach;
mod calls;
mod forward;
mod work;

use anyhow::{Context, Result};
use exod::Embedded;
use exod::config::{Config, FrameCount, ReadySize, ReadySizes};
use hdrhistogram::Histogram;
use libexo::abi::port::Layout;
use libexo::port::PortConfig;
use serde_json::json;

use crate::hugepages::Lease;
use crate::row::{Figure, Kind, Plan, Row, Throughput};
use crate::worker::{Job, Link, Mode, Report, Role, Team};

/// Buffers together: half of a second-level cache of 2 MiB, the other half is the receiver's rings.
const BUFFERS_BYTES: usize = 1 << 20;
/// The most slots of a ring: 16,384 packets of 64 bytes are `BUFFERS_BYTES`.
const RING_LOG2_MAX: u32 = 14;
/// The fewest: a burst of 256 in flight while the next one is written.
const RING_LOG2_MIN: u32 = 9;
/// Sets of units that exod may have: one in use, one ready, and those that it is taking back.
const SPARE: usize = 8;
/// Bytes of a frame, whatever its page size.
const FRAME_BYTES: usize = 2 << 20;
/// The smallest packet: a sequence number and one word that confirms it.
const SIZE_MIN: usize = 16;

/// What the receiver does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Reads and checks every byte as bytes of a peer.
    Port,
    /// The same through a slice, on a port that both sides and the policy declare trusted.
    Trusted,
    /// Looks at lengths alone.
    Descriptors,
    /// Three domains: the one in the middle rewrites MAC addresses.
    Forward,
}

struct PortRow {
    name: &'static str,
    about: &'static str,
    way: Way,
}

const ROWS: [PortRow; 4] = [
    PortRow {
        name: "port",
        about: "a port: the receiver reads and checks every byte of a peer it does not trust",
        way: Way::Port,
    },
    PortRow {
        name: "port-trusted",
        about: "a trusted port: the receiver checks every byte through a slice",
        way: Way::Trusted,
    },
    PortRow {
        name: "port-descriptors",
        about: "a port whose receiver looks at descriptors only, as testpmd's rxonly does",
        way: Way::Descriptors,
    },
    PortRow {
        name: "l2fwd",
        about: "three domains on two cores: source, MAC rewrite without copying payload, sink",
        way: Way::Forward,
    },
];

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    ROWS.into_iter()
        .map(|row| Box::new(row) as Box<dyn Row>)
        .collect()
}

/// Ring, buffers and frames for packets of `size` bytes.
fn config(size: usize, way: Way) -> PortConfig {
    let buffer_len = size.next_multiple_of(64);
    let wanted = (BUFFERS_BYTES / buffer_len)
        .next_power_of_two()
        .trailing_zeros();
    let most = match way {
        // Two slots for each packet, and two such ports in the forwarder's caches.
        Way::Forward => RING_LOG2_MAX - 1,
        _ => RING_LOG2_MAX,
    };
    let ring_log2 = wanted.clamp(RING_LOG2_MIN, most);
    let buffers_max = 1u32 << ring_log2;
    let bytes = Layout::new(ring_log2).packets + buffer_len * buffers_max as usize;
    PortConfig {
        ring_log2,
        frames: bytes.div_ceil(FRAME_BYTES) as u64,
        buffer_len,
        buffers_max,
        share: way == Way::Forward,
        trusted: way == Way::Trusted,
    }
}

/// An embedded exod with `sides` units ready, on hugepages where this user may have them.
struct Daemon {
    exod: Embedded,
    _lease: Option<Lease>,
}

impl Daemon {
    fn start(config: &PortConfig, sides: usize) -> Result<Daemon> {
        let frames = SPARE * sides * config.frames as usize;
        let lease = Lease::take(frames as u64).ok();
        let mut exod_config = Config::embedded();
        exod_config.pool.frames = FrameCount(frames as u32);
        let ready = ReadySize {
            frames: config.frames as u32,
            units: sides,
        };
        exod_config.pool.ready = ReadySizes(vec![ready]);
        let exod = Embedded::start(exod_config).context("cannot start an embedded exod")?;
        Ok(Daemon {
            exod,
            _lease: lease,
        })
    }

    fn connect(&self) -> Result<Vec<std::os::fd::OwnedFd>> {
        Ok(vec![
            self.exod.connect().context("the embedded exod went away")?,
        ])
    }
}

impl PortRow {
    /// Starts the workers of one run.
    fn team(&self, daemon: &Daemon, plan: &Plan, mode: Mode) -> Result<Team> {
        let mut team = Team::new(self.name, plan, mode)?;
        if self.way == Way::Forward {
            team = team.sharing_a_core();
        }
        // Each creates before the next one joins.
        team.start(Role::Sender, json!({}), daemon.connect()?)?;
        if self.way == Way::Forward {
            team.start(Role::Forwarder, json!({}), daemon.connect()?)?;
        }
        team.start(Role::Receiver, json!({}), daemon.connect()?)?;
        Ok(team)
    }

    fn daemon(&self, plan: &Plan) -> Result<Daemon> {
        let sides = if self.way == Way::Forward { 4 } else { 2 };
        Daemon::start(&config(plan.size, self.way), sides)
    }
}

impl Row for PortRow {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn kind(&self) -> Kind {
        Kind::Ours
    }

    fn supports(&self, size: usize) -> bool {
        (SIZE_MIN..=usize::from(u16::MAX) / 64 * 64).contains(&size)
            && (self.way != Way::Forward || size >= forward::HEADER_BYTES + SIZE_MIN)
    }

    fn has_round_trip(&self) -> bool {
        matches!(self.way, Way::Port | Way::Trusted)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let daemon = self.daemon(plan)?;
        let team = self.team(&daemon, plan, Mode::Throughput)?;
        let (sender, receiver) = team.run_pair()?;
        Ok(Throughput::from_reports(sender, receiver))
    }

    fn round_trip(&self, plan: &Plan) -> Result<Option<Histogram<u64>>> {
        let daemon = self.daemon(plan)?;
        let team = self.team(&daemon, plan, Mode::RoundTrip)?;
        let (sender, _) = team.run_pair()?;
        sender.histogram().map(Some)
    }

    fn figures(&self, plan: &Plan) -> Result<Vec<Figure>> {
        if self.way != Way::Port || plan.size != 64 {
            return Ok(Vec::new());
        }
        let daemon = self.daemon(plan)?;
        let calls = calls::per_packet(self.team(&daemon, plan, Mode::Throughput)?, plan)?;
        drop(daemon);
        Ok([Some(attach::figure(plan)?), calls]
            .into_iter()
            .flatten()
            .collect())
    }

    fn work(&self, job: Job, link: Link) -> Result<Report> {
        match self.way {
            Way::Forward => forward::work(job, link),
            way => work::work(way, job, link),
        }
    }
}
