//! Forwarding with a rewrite of the MAC addresses: what the three-process `l2fwd` is held against.
//!
//! Two ways to do it with DPDK on two cores, and the better one counts. `memif-macswap` has two processes:
//! testpmd's flowgen makes packets and takes them back, testpmd's macswap returns them. In
//! `memif-macswap-chain` a source, testpmd's macswap and a sink are three processes; source and sink share a
//! core and yield it when they cannot go on. Nobody reads the payload after the source wrote it.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::compile::{library, program};
use super::eal::{Memif, Room};
use super::peer::{self, Peer};
use super::testpmd::{self, Build, MISSING, Stats, Testpmd};
use super::{BURST_MAX, fits};
use crate::interrupt;
use crate::row::{Kind, Plan, Row, Throughput};

/// Slots of flowgen's ring, as log2.
const RING_LOG2: u32 = 10;
/// Slots of the chain's rings: source and sink take turns on their core, and move this much in a turn.
const CHAIN_RING_LOG2: u32 = 10;

struct MacswapRow {
    name: String,
    build: Option<Build>,
    chain: bool,
}

/// The rows of this module, once for each build.
pub(super) fn rows() -> Vec<Box<dyn Row>> {
    let mut rows: Vec<Box<dyn Row>> = Vec::new();
    for build in testpmd::each_build() {
        let suffix = build.as_ref().map_or("", |build| build.suffix);
        for (name, chain) in [("memif-macswap", false), ("memif-macswap-chain", true)] {
            rows.push(Box::new(MacswapRow {
                name: format!("{name}{suffix}"),
                build: build.clone(),
                chain,
            }));
        }
    }
    rows
}

impl Row for MacswapRow {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        if self.chain {
            "source, testpmd macswap and sink: three processes, two memif hops zero-copy, payload not read"
        } else {
            "testpmd flowgen to testpmd macswap and back over memif zero-copy, payload not read"
        }
    }

    fn kind(&self) -> Kind {
        Kind::Dpdk
    }

    fn unavailable(&self) -> Option<String> {
        if self.build.is_none() {
            return Some(MISSING.to_owned());
        }
        library().err().filter(|_| self.chain)
    }

    fn supports(&self, size: usize) -> bool {
        // testpmd's flowgen makes frames up to Ethernet's size.
        fits(size) && size <= 1518
    }

    fn burst(&self, wanted: usize, _size: usize) -> usize {
        wanted.clamp(1, BURST_MAX)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let build = self.build.as_ref().context(MISSING)?;
        if self.chain {
            chain(build, plan)
        } else {
            flowgen(build, plan)
        }
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
    run.details = testpmd::details(build, &swap, &room);
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

fn chain(build: &Build, plan: &Plan) -> Result<Throughput> {
    let room = Room::new(testpmd::MEMORY, 3)?;
    let [shared, forwarder] = plan.cores;
    let binary = program()?;
    let end = |role: &str, link: &str| {
        let mut command = Command::new(&binary);
        room.furnish(&mut command, peer::MEMORY, &[shared]);
        room.add_memif(&mut command, &memif(0, link, false, plan, CHAIN_RING_LOG2));
        Peer::start(command, role, plan, &[("touch", 0), ("yield", 1)])
    };
    let mut source = end("send", "in")?;
    let mut sink = end("receive", "out")?;
    // The forwarder owns the memory of both hops, so that it copies nothing itself.
    let mut command = build.command();
    room.furnish(&mut command, testpmd::MEMORY, &[forwarder]);
    room.add_memif(&mut command, &memif(0, "in", true, plan, CHAIN_RING_LOG2));
    room.add_memif(&mut command, &memif(1, "out", true, plan, CHAIN_RING_LOG2));
    let swap = Testpmd::start(command, "macswap", plan, &[], "start")?;
    source.await_link()?;
    sink.await_link()?;
    let mut run = peer::window(&mut source, &mut sink, plan)?;
    run.details = testpmd::details(build, &swap, &room);
    run.details
        .insert("ring".into(), json!(1 << CHAIN_RING_LOG2));
    run.details.insert("processes".into(), json!(3));
    source.process.end()?;
    sink.process.end()?;
    swap.process.end()?;
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
