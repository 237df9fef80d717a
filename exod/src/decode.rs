//! From 64 bytes to a command: everything checked, nothing changed.
//!
//! Decoding is a pure function, so it can be fuzzed without a daemon. What it lets through names an
//! operation with every number in its range; whether the session may do it, and whether its handles
//! mean anything, is for `invoke` to see.

#![forbid(unsafe_code)]

use libexo::abi::ABI_VERSION;
use libexo::abi::port::{PortFlags, RING_LOG2, SEGMENTS_MAX};
use libexo::abi::wire::{ErrorCode, HELLO_MAGIC, Op, PageKind, PortName, Request, StatsPage};
use zerocopy::FromBytes;

use crate::frames::FRAMES_MAX;

/// A checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin.
    Hello,
    /// Nothing.
    Ping,
    /// A new unit.
    AllocUnit {
        /// Frames of it.
        frames: u32,
        /// The pages that it must have; nothing: what the pool has.
        pages: Option<PageKind>,
    },
    /// Give a capability back.
    Drop {
        /// Which.
        handle: u64,
    },
    /// Look at a capability.
    Inspect {
        /// Which.
        handle: u64,
    },
    /// The next capability.
    List {
        /// The last one; zero to begin.
        after: u64,
    },
    /// A new port.
    PortCreate {
        /// This side's segment.
        unit: u64,
        /// Its name.
        name: PortName,
        /// Ring slots.
        ring_log2: u32,
        /// What this side asks for.
        flags: PortFlags,
    },
    /// The other side of a port.
    PortJoin {
        /// This side's segment.
        unit: u64,
        /// Its name.
        name: PortName,
        /// What this side asks for.
        flags: PortFlags,
    },
    /// The peer's segment.
    PortPeer {
        /// The port.
        port: u64,
    },
    /// One more segment of ours.
    PortAttach {
        /// The port.
        port: u64,
        /// What the peer may read.
        unit: u64,
    },
    /// One more segment of the peer's.
    PortSegment {
        /// The port.
        port: u64,
        /// Which.
        segment: usize,
    },
    /// The end of a port.
    PortLeave {
        /// Which.
        port: u64,
        /// Passed on to the log.
        reason: u64,
    },
    /// Mirror a port, or stop.
    PortTap {
        /// Which.
        name: PortName,
        /// Begin or stop.
        on: bool,
    },
    /// Read the ledger.
    Stats {
        /// One domain's, or all.
        domain: u64,
        /// Which counters.
        page: StatsPage,
    },
    /// The next domain.
    DomainNext {
        /// The last one; zero to begin.
        after: u64,
    },
    /// The next port.
    PortNext {
        /// The last one; zero to begin.
        after: u64,
    },
    /// What passed a port.
    PortCounts {
        /// Its number.
        port: u64,
    },
    /// The page of counters.
    Counters,
}

impl Command {
    /// The port that it names, where it names one.
    pub fn port_name(&self) -> Option<PortName> {
        match self {
            Command::PortCreate { name, .. }
            | Command::PortJoin { name, .. }
            | Command::PortTap { name, .. } => Some(*name),
            _ => None,
        }
    }

    /// The handle of a port that it is invoked on, where that is its handle.
    pub fn port_handle(&self) -> Option<u64> {
        match self {
            Command::PortPeer { port }
            | Command::PortAttach { port, .. }
            | Command::PortSegment { port, .. }
            | Command::PortLeave { port, .. } => Some(*port),
            _ => None,
        }
    }
}

/// The part of a request that its reply repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The operation's number, known or not.
    pub op: u16,
    /// The client's own number.
    pub seq: u32,
}

/// Reads a record. Nothing when it is not one at all: then there is nothing to answer either.
pub fn decode(record: &[u8]) -> Option<(Head, Result<Command, ErrorCode>)> {
    let request = Request::read_from_bytes(record).ok()?;
    let head = Head {
        op: request.op,
        seq: request.seq,
    };
    Some((head, command(&request)))
}

fn command(r: &Request) -> Result<Command, ErrorCode> {
    let op = Op::from_raw(r.op).ok_or(ErrorCode::Malformed)?;
    let (handles, args) = shape(op);
    let extra =
        r.reserved != 0 || !handles && r.handle != 0 || r.args[args..].iter().any(|arg| *arg != 0);
    if extra {
        return Err(ErrorCode::Malformed);
    }
    let [a0, a1, a2, a3, a4, _] = r.args;
    let name = || PortName::from_words([a0, a1, a2]).ok_or(ErrorCode::Malformed);
    Ok(match op {
        Op::Hello => {
            check(a0 == HELLO_MAGIC)?;
            if a1 != u64::from(ABI_VERSION) {
                return Err(ErrorCode::BadVersion);
            }
            Command::Hello
        }
        Op::Ping => Command::Ping,
        Op::AllocUnit => Command::AllocUnit {
            frames: within(a0, 1, u64::from(FRAMES_MAX))? as u32,
            pages: match a1 {
                0 => None,
                raw => Some(PageKind::from_raw(raw).ok_or(ErrorCode::Malformed)?),
            },
        },
        Op::Drop => Command::Drop { handle: r.handle },
        Op::Inspect => Command::Inspect { handle: r.handle },
        Op::List => Command::List { after: r.handle },
        Op::PortCreate => Command::PortCreate {
            unit: r.handle,
            name: name()?,
            ring_log2: within(
                a3,
                u64::from(*RING_LOG2.start()),
                u64::from(*RING_LOG2.end()),
            )? as u32,
            flags: flags(a4)?,
        },
        Op::PortJoin => {
            check(a3 == 0)?;
            Command::PortJoin {
                unit: r.handle,
                name: name()?,
                flags: flags(a4)?,
            }
        }
        Op::PortPeer => Command::PortPeer { port: r.handle },
        Op::PortAttach => Command::PortAttach {
            port: r.handle,
            unit: a0,
        },
        Op::PortSegment => Command::PortSegment {
            port: r.handle,
            segment: within(a0, 0, SEGMENTS_MAX as u64 - 1)? as usize,
        },
        Op::PortLeave => Command::PortLeave {
            port: r.handle,
            reason: a0,
        },
        Op::PortTap => {
            check(a3 == 0)?;
            Command::PortTap {
                name: name()?,
                on: within(a4, 0, 1)? == 1,
            }
        }
        Op::Stats => Command::Stats {
            domain: a0,
            page: StatsPage::from_raw(a1).ok_or(ErrorCode::Malformed)?,
        },
        Op::DomainNext => Command::DomainNext { after: a0 },
        Op::PortNext => Command::PortNext { after: a0 },
        Op::PortCounts => Command::PortCounts { port: a0 },
        Op::Counters => Command::Counters,
    })
}

/// Whether an operation takes a handle, and how many arguments.
fn shape(op: Op) -> (bool, usize) {
    match op {
        Op::Hello => (false, 2),
        Op::Ping | Op::Counters => (false, 0),
        Op::AllocUnit => (false, 2),
        Op::Drop | Op::Inspect | Op::List | Op::PortPeer => (true, 0),
        Op::PortCreate | Op::PortJoin => (true, 5),
        Op::PortAttach | Op::PortSegment | Op::PortLeave => (true, 1),
        Op::PortTap => (false, 5),
        Op::Stats => (false, 2),
        Op::DomainNext | Op::PortNext | Op::PortCounts => (false, 1),
    }
}

fn check(holds: bool) -> Result<(), ErrorCode> {
    if holds {
        Ok(())
    } else {
        Err(ErrorCode::Malformed)
    }
}

fn within(value: u64, low: u64, high: u64) -> Result<u64, ErrorCode> {
    check((low..=high).contains(&value))?;
    Ok(value)
}

fn flags(raw: u64) -> Result<PortFlags, ErrorCode> {
    u32::try_from(raw)
        .ok()
        .and_then(PortFlags::from_bits)
        .ok_or(ErrorCode::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn good(op: Op) -> Request {
        let name = PortName::new("demo").expect("a name").words();
        let mut r = Request {
            op: op as u16,
            seq: 7,
            ..Request::default()
        };
        match op {
            Op::Hello => r.args[..2].copy_from_slice(&[HELLO_MAGIC, u64::from(ABI_VERSION)]),
            Op::AllocUnit => r.args[0] = 1,
            Op::PortCreate | Op::PortJoin | Op::PortTap => r.args[..3].copy_from_slice(&name),
            _ => {}
        }
        if op == Op::PortCreate {
            r.args[3] = 12;
        }
        r
    }

    fn verdict(r: &Request) -> Result<Command, ErrorCode> {
        let (head, verdict) = decode(r.as_bytes()).expect("64 bytes");
        assert_eq!((head.op, head.seq), (r.op, r.seq));
        verdict
    }

    #[test]
    fn every_operation_is_decoded_and_every_unused_field_must_be_zero() {
        for op in Op::ALL {
            let request = good(op);
            assert!(verdict(&request).is_ok(), "{op:?}");
            let (handles, args) = shape(op);
            let mut bad = vec![Request {
                reserved: 1,
                ..request
            }];
            if !handles {
                bad.push(Request {
                    handle: 1,
                    ..request
                });
            }
            for unused in args..6 {
                let mut r = request;
                r.args[unused] = 1;
                bad.push(r);
            }
            for r in bad {
                assert_eq!(verdict(&r), Err(ErrorCode::Malformed), "{r:?}");
            }
        }
    }

    #[test]
    fn numbers_out_of_their_range_are_malformed() {
        let cases: [(Op, usize, u64); 13] = [
            (Op::Hello, 0, 1),
            (Op::AllocUnit, 0, 0),
            (Op::AllocUnit, 0, u64::MAX),
            (Op::AllocUnit, 1, 4),
            (Op::PortCreate, 0, u64::MAX),
            (Op::PortCreate, 3, 3),
            (Op::PortCreate, 3, 17),
            (Op::PortCreate, 4, 4),
            (Op::PortJoin, 3, 12),
            (Op::PortJoin, 4, 1 << 40),
            (Op::PortSegment, 0, SEGMENTS_MAX as u64),
            (Op::PortTap, 4, 2),
            (Op::Stats, 1, 3),
        ];
        for (op, arg, value) in cases {
            let mut r = good(op);
            r.args[arg] = value;
            assert_eq!(verdict(&r), Err(ErrorCode::Malformed), "{r:?}");
        }
        let mut old = good(Op::Hello);
        old.args[1] = 0;
        assert_eq!(verdict(&old), Err(ErrorCode::BadVersion));
    }

    #[test]
    fn only_64_bytes_are_a_record() {
        for len in (0..200).filter(|len| *len != 64) {
            assert_eq!(decode(&vec![1; len]), None);
        }
    }
}
