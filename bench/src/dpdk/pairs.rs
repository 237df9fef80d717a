//! DPDK between two cores of one process: what it costs where there is no border to cross.
//!
//! `rte-ring` hands mbufs over: one core allocates and writes them, the other reads every byte and
//! frees them; its round trip is one pointer through two rings and touches no packet. `net-ring` is
//! testpmd forwarding between two ring ports: pointers alone.

use std::process::Command;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::json;

use super::compile::program;
use super::eal::{Room, buffer};
use super::peer::{self, Peer};
use super::testpmd::{self, Build, MISSING, Testpmd};
use super::{BURST_MAX, fits};
use crate::interrupt;
use crate::row::{Kind, Plan, Row, Throughput};

/// Bursts with which each of the two rings is started: enough that no core waits for the other.
const TX_FIRST: u32 = 4;

/// Slots of the ring: the best of 64 to 4,096.
const RING: usize = 256;
/// Packets of the pool: the best of 2,048 to 32,768, as long as they fit into the memory.
const MBUFS_MAX: usize = 16384;
/// Bytes of the memory that the pool may take.
const POOL_BYTES_MAX: usize = 64 << 20;

fn mbufs(size: usize) -> usize {
    (POOL_BYTES_MAX / buffer(size)).min(MBUFS_MAX)
}

struct RingRow;

struct NetRingRow {
    name: String,
    build: Option<Build>,
}

/// The rows of this module.
pub(super) fn rows() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> = vec![Box::new(RingRow)];
    for build in testpmd::each_build() {
        let suffix = build.as_ref().map_or("", |build| build.suffix);
        let name = format!("net-ring{suffix}");
        rows.push(Box::new(NetRingRow { name, build }));
    }
    rows
}

impl RingRow {
    /// With one lcore that allocates and one that frees, the pool may be a ring of one producer and
    /// one consumer. It is large: a buffer that left the other core's cache meanwhile is cheaper to
    /// write.
    fn start(role: &str, plan: &Plan, room: &Room) -> Result<Peer> {
        let mut command = Command::new(program()?);
        room.furnish(&mut command, peer::MEMORY, &plan.cores);
        let mbufs = format!("mbufs={}", mbufs(plan.size));
        let ring = format!("ring={RING}");
        let options = [mbufs.as_str(), ring.as_str(), "ops=ring_sp_sc"];
        let mut peer = Peer::start(command, role, plan, &options)?;
        peer.await_link()?;
        Ok(peer)
    }
}

impl Row for RingRow {
    fn name(&self) -> &str {
        "rte-ring"
    }

    fn about(&self) -> &str {
        "DPDK mbufs through an rte_ring in one process, every byte read; round trip of a pointer alone"
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        peer::unavailable(1)
    }

    fn supports(&self, size: usize) -> bool {
        fits(size)
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn has_round_trip(&self) -> bool {
        true
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let room = Room::new(peer::MEMORY, 1)?;
        let mut both = Self::start("handoff", plan, &room)?;
        interrupt::sleep(plan.warm_up)?;
        let before = both.stats()?;
        interrupt::sleep(plan.duration)?;
        let after = both.stats()?;
        let mut run = peer::between(&before, &after);
        // One process: what the ring took cannot be lost on the way, and gaps would show.
        run.sent = run.packets;
        run.lost = after.lost;
        run.corrupt = after.corrupt;
        run.details = peer::details(&room, "rte_ring");
        run.details.insert("ring".into(), json!(RING));
        run.details.insert("mbufs".into(), json!(mbufs(plan.size)));
        both.process.end()?;
        Ok(run)
    }

    fn round_trip(&self, plan: &Plan) -> Result<Option<Histogram<u64>>> {
        let room = Room::new(peer::MEMORY, 1)?;
        let mut both = Self::start("ring", plan, &room)?;
        let histogram = peer::round_trips(&mut both, plan)?;
        both.process.end()?;
        Ok(Some(histogram))
    }
}

impl Row for NetRingRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        "testpmd io between two net_ring ports in one process, both directions added; pointers only"
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        testpmd::unavailable(self.build.as_ref(), 1)
    }

    fn supports(&self, size: usize) -> bool {
        // No byte is looked at, so one size says all.
        size == super::SIZE_MIN
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let build = self.build.as_ref().context(MISSING)?;
        let room = Room::new(testpmd::MEMORY, 1)?;
        let mut command = build.command();
        room.furnish(&mut command, testpmd::MEMORY, &plan.cores);
        command.args(["--vdev=net_ring0", "--vdev=net_ring1"]);
        let start = format!("start tx_first {TX_FIRST}");
        let mut both = Testpmd::start(command, "io", plan, &["--nb-cores=2"], &start)?;
        interrupt::sleep(plan.warm_up)?;
        let before = [both.stats(0)?, both.stats(1)?];
        interrupt::sleep(plan.duration)?;
        let after = [both.stats(0)?, both.stats(1)?];
        let mut run = testpmd::between(&before[0], &after[0], plan.size);
        let other = testpmd::between(&before[1], &after[1], plan.size);
        // The same window twice: packets add up, time does not.
        run.packets += other.packets;
        run.bytes += other.bytes;
        run.sent = run.packets;
        run.details = testpmd::details(build, &both, &room, "net_ring");
        run.details.insert("mode".into(), json!("nothing"));
        both.process.end()?;
        Ok(run)
    }
}
