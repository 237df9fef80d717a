//! Forwarding with a rewrite of the MAC addresses: what the three-process `l2fwd` is held against.
//!
//! Two ways to do it with DPDK on two cores, and the better one counts. `memif-macswap` has two
//! processes: testpmd's flowgen makes packets and takes them back, testpmd's macswap returns them.
//! In `memif-macswap-chain` a source, a forwarder and a sink are three processes of our own
//! program; source and sink share a core and yield it when they cannot go on. testpmd as the
//! forwarder would drop what the sink cannot take in its turn, which is nearly all. Nobody reads
//! the payload after the source wrote it.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::compile::program;
use super::eal::{Memif, Room};
use super::peer::{self, Peer};
use super::testpmd::{self, Build, MISSING, Stats, Testpmd};
use super::{BURST_MAX, fits};
use crate::interrupt;
use crate::row::{Kind, Plan, Row, Throughput};

/// Slots of flowgen's ring, as log2.
const RING_LOG2: u32 = 10;
/// Slots of the chain's rings: source and sink take turns on their core, and move this much in a
/// turn.
const CHAIN_RING_LOG2: u32 = 10;

/// testpmd's flowgen makes frames up to Ethernet's size.
const FLOWGEN_SIZE_MAX: usize = 1518;

struct FlowgenRow {
    name: String,
    build: Option<Build>,
}

struct ChainRow;

/// The rows of this module.
pub(super) fn rows() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> = Vec::new();
    for build in testpmd::each_build() {
        let suffix = build.as_ref().map_or("", |build| build.suffix);
        let name = format!("memif-macswap{suffix}");
        rows.push(Box::new(FlowgenRow { name, build }));
    }
    rows.push(Box::new(ChainRow));
    rows
}

impl Row for FlowgenRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        "testpmd flowgen to testpmd macswap and back over memif zero-copy, payload not read"
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        testpmd::unavailable(self.build.as_ref(), 2)
    }

    fn supports(&self, size: usize) -> bool {
        fits(size) && size <= FLOWGEN_SIZE_MAX
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        flowgen(self.build.as_ref().context(MISSING)?, plan)
    }
}

impl Row for ChainRow {
    fn name(&self) -> &str {
        "memif-macswap-chain"
    }

    fn about(&self) -> &str {
        "source, MAC swapper and sink: three DPDK processes, two memif hops zero-copy, payload not read"
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        peer::unavailable(3)
    }

    fn supports(&self, size: usize) -> bool {
        fits(size)
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        chain(plan)
    }
}

fn flowgen(build: &Build, plan: &Plan) -> Result<Throughput> {
    let room = Room::new(testpmd::MEMORY, 2)?;
    let start = |client: bool, mode: &str| {
        let mut command = build.command();
        room.furnish(
            &mut command,
            testpmd::MEMORY,
            &[plan.cores[usize::from(!client)]],
        );
        room.add_memif(&mut command, &memif(0, "memif", client, plan, RING_LOG2));
        Testpmd::start(command, mode, plan, &[], "start")
    };
    let mut swap = start(false, "macswap")?;
    let mut generator = start(true, "flowgen")?;
    testpmd::await_packets(&mut generator)?;
    interrupt::sleep(plan.warm_up)?;
    let (before, swapped) = (generator.stats(0)?, swap.stats(0)?);
    interrupt::sleep(plan.duration)?;
    let (after, swapped) = (generator.stats(0)?, since(&swapped, &swap.stats(0)?));
    let mut run = testpmd::between(&before, &after, plan.size);
    run.sent = after.sent - before.sent;
    // What macswap could not put into the full ring back it dropped.
    run.lost = swapped.received.saturating_sub(swapped.sent);
    run.details = testpmd::details(build, &swap, &room, "net_memif");
    run.details.insert("ring".into(), json!(1 << RING_LOG2));
    generator.process.end()?;
    swap.process.end()?;
    Ok(run)
}

fn since(before: &Stats, after: &Stats) -> Stats {
    Stats {
        received: after.received - before.received,
        sent: after.sent - before.sent,
        received_rate: after.received_rate,
    }
}

fn chain(plan: &Plan) -> Result<Throughput> {
    let room = Room::new(peer::MEMORY, 3)?;
    let [shared, forwarder] = plan.cores;
    let binary = program()?;
    let start = |role: &str, core: usize, links: &[&str], client: bool| {
        let mut command = Command::new(&binary);
        room.furnish(&mut command, peer::MEMORY, &[core]);
        for (port, link) in links.iter().enumerate() {
            room.add_memif(
                &mut command,
                &memif(port, link, client, plan, CHAIN_RING_LOG2),
            );
        }
        let sharing = if core == shared {
            peer::YIELD
        } else {
            "yield=0"
        };
        Peer::start(command, role, plan, &["touch=0", sharing])
    };
    let mut source = start("send", shared, &["in"], false)?;
    let mut sink = start("receive", shared, &["out"], false)?;
    // The forwarder owns the memory of both hops, so that it copies nothing itself.
    let mut swap = start("forward", forwarder, &["in", "out"], true)?;
    for process in [&mut source, &mut sink, &mut swap] {
        process.await_link()?;
    }
    let mut run = peer::window(&mut source, &mut sink, plan)?;
    run.details = peer::details(&room, "net_memif");
    run.details
        .insert("ring".into(), json!(1 << CHAIN_RING_LOG2));
    run.details.insert(
        "mode".into(),
        json!("written by the source, MAC addresses swapped"),
    );
    for process in [source, sink, swap] {
        process.process.end()?;
    }
    Ok(run)
}

fn memif<'a>(port: usize, link: &'a str, client: bool, plan: &Plan, ring_log2: u32) -> Memif<'a> {
    Memif {
        port,
        link,
        client,
        zero_copy: true,
        size: plan.size,
        ring_log2,
    }
}
