//! What the Linux kernel offers between two processes of one machine, each as an expert would set
//! it up.
//!
//! All of it polls with non-blocking calls, as the other rows do: a sleeping receiver would measure
//! the scheduler. Sockets are made and connected here, in the parent, and inherited by the workers.
//! Datagrams may be dropped; the sequence numbers say how many.
mod drive;
mod mmsg;
mod net;
mod packet;
mod pipe;
mod plain;
mod uring;

use std::os::fd::OwnedFd;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::row::{Kind, Plan, Row, Throughput};
use crate::worker::{Job, Link, Mode, Report, Role, Team};

/// The largest UDP payload over IPv4.
const UDP_BYTES_MAX: usize = 65_507;
/// Segments of one UDP send: kernels before 6.9 refuse more.
const SEGMENTS_MAX: usize = 64;
/// Bytes of one write to a pipe: more per call gains nothing once the copy dominates.
const PIPE_WRITE_BYTES: usize = 64 << 10;
/// The smallest packet: a sequence number and one word that confirms it.
const SIZE_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    UdpPlain,
    UdpBatch,
    UdpSegments,
    UdpRing,
    Packet,
    Seqpacket,
    Pipe,
}

struct KernelRow {
    name: &'static str,
    about: &'static str,
    way: Way,
}

const ROWS: [KernelRow; 7] = [
    KernelRow {
        name: "udp",
        about: "UDP over loopback, one sendto and one recvfrom per packet",
        way: Way::UdpPlain,
    },
    KernelRow {
        name: "udp-mmsg",
        about: "UDP over loopback, sendmmsg and recvmmsg",
        way: Way::UdpBatch,
    },
    KernelRow {
        name: "udp-gso",
        about: "UDP over loopback, UDP_SEGMENT and UDP_GRO: one datagram in the stack is many segments",
        way: Way::UdpSegments,
    },
    KernelRow {
        name: "io-uring",
        about: "UDP over loopback, io_uring: a burst of sends per call, multishot receive into provided buffers",
        way: Way::UdpRing,
    },
    KernelRow {
        name: "af-packet",
        about: "AF_PACKET over a veth pair, mmap rings both ways, queueing discipline bypassed",
        way: Way::Packet,
    },
    KernelRow {
        name: "unix-seqpacket",
        about: "a Unix socketpair of records, sendmmsg and recvmmsg",
        way: Way::Seqpacket,
    },
    KernelRow {
        name: "pipe",
        about: "a pipe of 1 MiB, records of a fixed size, many per write",
        way: Way::Pipe,
    },
];

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    ROWS.into_iter()
        .map(|row| Box::new(row) as Box<dyn Row>)
        .collect()
}

impl KernelRow {
    /// The descriptors of the sender and of the receiver.
    fn connect(&self, plan: &Plan, mode: Mode) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
        match self.way {
            Way::UdpPlain | Way::UdpBatch | Way::UdpSegments | Way::UdpRing => net::udp_pair(),
            Way::Seqpacket => net::seqpacket_pair(),
            Way::Pipe => pipe::pair(),
            Way::Packet => packet::pair(plan, mode),
        }
    }

    fn run(&self, plan: &Plan, mode: Mode) -> Result<(Report, Report)> {
        let mut team = Team::new(self.name, plan, mode)?;
        let (sender, receiver) = self.connect(plan, mode)?;
        team.start(Role::Receiver, Value::Null, receiver)?;
        team.start(Role::Sender, Value::Null, sender)?;
        team.run_pair()
    }
}

impl Row for KernelRow {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn unavailable(&self) -> Option<String> {
        match self.way {
            Way::Packet => packet::unavailable(),
            Way::UdpRing => uring::unavailable(),
            _ => None,
        }
    }

    fn supports(&self, size: usize) -> bool {
        let max = match self.way {
            Way::Packet => packet::SIZE_MAX,
            _ => UDP_BYTES_MAX,
        };
        (SIZE_MIN..=max).contains(&size)
    }

    fn burst(&self, wanted: usize, size: usize) -> usize {
        match self.way {
            Way::UdpPlain => 1,
            Way::UdpSegments => SEGMENTS_MAX.min(UDP_BYTES_MAX / size),
            Way::Pipe => (PIPE_WRITE_BYTES / size).max(1),
            _ => wanted,
        }
    }

    fn has_round_trip(&self) -> bool {
        // With one packet under way, these two are the plain UDP socket again.
        !matches!(self.way, Way::UdpBatch | Way::UdpSegments)
    }

    fn throughput(&self, plan: &Plan) -> Result<Throughput> {
        let (sender, receiver) = self.run(plan, Mode::Throughput)?;
        let (device, driver) = match self.way {
            Way::UdpRing => ("lo", "io_uring"),
            Way::Packet => ("veth", "AF_PACKET"),
            Way::Seqpacket => ("socketpair", "AF_UNIX"),
            Way::Pipe => ("pipe", "pipe"),
            _ => ("lo", "UDP"),
        };
        let receiver = receiver
            .with("device", device)
            .with("driver", driver)
            .with("mode", "busy poll, non-blocking calls")
            .with("page", "4 KiB");
        Ok(Throughput::from_reports(sender, receiver))
    }

    fn round_trip(&self, plan: &Plan) -> Result<Option<Histogram<u64>>> {
        if !self.has_round_trip() {
            return Ok(None);
        }
        let plan = Plan {
            burst: 1,
            ..plan.clone()
        };
        let (client, _) = self.run(&plan, Mode::RoundTrip)?;
        client.histogram().map(Some)
    }

    fn work(&self, job: Job, link: Link) -> Result<Report> {
        match self.way {
            Way::UdpPlain => plain::work(job, link),
            Way::UdpBatch | Way::Seqpacket => mmsg::work(job, link, 1),
            Way::UdpSegments => mmsg::work_segments(job, link),
            Way::UdpRing => uring::work(job, link),
            Way::Packet => packet::work(job, link),
            Way::Pipe => pipe::work(job, link),
        }
    }
}
