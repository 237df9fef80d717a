//! Every operation of the protocol: how its request is filled, and what its answer must be like.
//!
//! A decoder gets the request and the whole answer, checks all of it, and only then gives a value.
//! What it refuses is dropped, so its descriptors are closed.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::checks::{
    Decoded, PAGE, bell, exactly, file, granted, inspection, memory, page_kind, peer_side,
};
use super::grants::*;
use crate::abi::ABI_VERSION;
use crate::abi::counters;
use crate::abi::port::{PortFlags, SEGMENTS_MAX};
use crate::abi::status::HEADER_WORDS;
use crate::abi::wire::{
    HELLO_MAGIC, Op, PageKind, PortBrief, PortName, ProcessName, Protection, Reply, Request,
    StatsPage,
};
use crate::counters::Counters;

/// Smallest status table: its header and one handle.
const STATUS_BYTES_MIN: u64 = 8 * (HEADER_WORDS as u64 + 1);

/// Largest status table: a word for each of sixteen million handles.
const STATUS_BYTES_MAX: u64 = 128 << 20;

type Decode<T> = fn(&Request, Reply, Vec<OwnedFd>) -> Decoded<T>;

/// One request and how to read its answer. Made by the constructor that is named like the method
/// of [`super::Client`]; sent by [`super::Client::submit`] or [`super::Client::call`].
pub struct Call<T> {
    pub(super) op: Op,
    pub(super) request: Request,
    pub(super) decode: Decode<T>,
}

/// A hello's answer.
pub(super) struct Greeting {
    pub info: SessionInfo,
    pub status_bytes: usize,
    pub status: OwnedFd,
    pub bell: OwnedFd,
}

fn call<T>(op: Op, handle: u64, args: [u64; 6], decode: Decode<T>) -> Call<T> {
    let request = Request {
        op: op as u16,
        handle,
        args,
        ..Request::default()
    };
    Call {
        op,
        request,
        decode,
    }
}

impl Call<Greeting> {
    pub(super) fn hello() -> Call<Greeting> {
        let args = [HELLO_MAGIC, u64::from(ABI_VERSION), 0, 0, 0, 0];
        call(Op::Hello, 0, args, |_, reply, fds| {
            let [
                version,
                domain,
                status_bytes,
                kind,
                frame_bytes,
                frames_left,
            ] = reply.vals;
            let [status, bell] = exactly(fds)?;
            if version != u64::from(ABI_VERSION) {
                return Err("another protocol version");
            }
            if !frame_bytes.is_power_of_two() || !(PAGE..=1 << 30).contains(&frame_bytes) {
                return Err("no such frame size");
            }
            if !(STATUS_BYTES_MIN..=STATUS_BYTES_MAX).contains(&status_bytes)
                || !status_bytes.is_multiple_of(8)
            {
                return Err("no such status table size");
            }
            let status_bytes = file(&status, status_bytes, OFlags::RDONLY)?;
            self::bell(&bell, OFlags::RDONLY)?;
            Ok(Greeting {
                info: SessionInfo {
                    domain,
                    page_kind: page_kind(kind)?,
                    frame_bytes: frame_bytes as usize,
                    frames_left,
                },
                status_bytes,
                status,
                bell,
            })
        })
    }
}

impl Call<()> {
    /// See [`super::Client::ping`].
    pub fn ping() -> Call<()> {
        call(Op::Ping, 0, [0; 6], nothing)
    }

    /// See [`super::Client::drop_handle`].
    pub fn drop_handle(handle: u64) -> Call<()> {
        call(Op::Drop, handle, [0; 6], nothing)
    }

    /// See [`super::Client::port_leave`].
    pub fn port_leave(port: u64, reason: u64) -> Call<()> {
        call(Op::PortLeave, port, [reason, 0, 0, 0, 0, 0], nothing)
    }

    /// See [`super::Client::port_tap`].
    pub fn port_tap(name: &PortName, on: bool) -> Call<()> {
        let [a, b, c] = name.words();
        call(Op::PortTap, 0, [a, b, c, 0, u64::from(on), 0], nothing)
    }
}

impl Call<UnitGrant> {
    /// See [`super::Client::alloc_unit`].
    pub fn alloc_unit(frames: u64, kind: Option<PageKind>) -> Call<UnitGrant> {
        let kind = kind.map_or(0, |kind| kind as u64);
        let args = [frames, kind, 0, 0, 0, 0];
        call(Op::AllocUnit, 0, args, |request, reply, fds| {
            let [bytes, kind, protection, ..] = reply.vals;
            let [fd] = exactly(fds)?;
            let bytes = memory(&fd, bytes, OFlags::RDWR)?;
            let asked = request.args[1];
            if asked != 0 && asked != kind {
                return Err("pages of another kind than asked for");
            }
            Ok(UnitGrant {
                handle: granted(reply.handle)?,
                bytes,
                page_kind: page_kind(kind)?,
                protection: Protection::from_raw(protection).ok_or("no such protection")?,
                fd,
            })
        })
    }
}

impl Call<Inspection> {
    /// See [`super::Client::inspect`].
    pub fn inspect(handle: u64) -> Call<Inspection> {
        call(Op::Inspect, handle, [0; 6], |request, reply, fds| {
            let [] = exactly(fds)?;
            inspection(request.handle, &reply)
        })
    }
}

impl Call<Option<Inspection>> {
    /// The capability after `last`, or the first (0). See [`super::Client::list`].
    pub fn list(last: u64) -> Call<Option<Inspection>> {
        call(Op::List, last, [0; 6], |request, reply, fds| {
            let [] = exactly(fds)?;
            if reply.handle == 0 {
                return Ok(None);
            }
            if reply.handle == request.handle {
                return Err("the list does not go on");
            }
            inspection(reply.handle, &reply).map(Some)
        })
    }
}

impl Call<PortCreated> {
    /// See [`super::Client::port_create`].
    pub fn port_create(
        name: &PortName,
        unit: u64,
        ring_log2: u32,
        flags: PortFlags,
    ) -> Call<PortCreated> {
        let [a, b, c] = name.words();
        let args = [a, b, c, u64::from(ring_log2), u64::from(flags.bits()), 0];
        call(Op::PortCreate, unit, args, |_, reply, fds| {
            let [own_bell, peer_bell] = exactly(fds)?;
            bell(&own_bell, OFlags::RDONLY)?;
            bell(&peer_bell, OFlags::WRONLY)?;
            Ok(PortCreated {
                handle: granted(reply.handle)?,
                own_bell,
                peer_bell,
            })
        })
    }
}

impl Call<PortJoined> {
    /// See [`super::Client::port_join`].
    pub fn port_join(name: &PortName, unit: u64, flags: PortFlags) -> Call<PortJoined> {
        let [a, b, c] = name.words();
        let args = [a, b, c, 0, u64::from(flags.bits()), 0];
        call(Op::PortJoin, unit, args, |_, reply, fds| {
            let [segment, own_bell, peer_bell] = exactly(fds)?;
            bell(&own_bell, OFlags::RDONLY)?;
            bell(&peer_bell, OFlags::WRONLY)?;
            Ok(PortJoined {
                handle: granted(reply.handle)?,
                peer: peer_side(reply.vals[5], &reply.vals, segment)?,
                own_bell,
                peer_bell,
            })
        })
    }
}

impl Call<PeerSide> {
    /// See [`super::Client::port_peer`]; `NotReady` is a refusal here.
    pub fn port_peer(port: u64) -> Call<PeerSide> {
        call(Op::PortPeer, port, [0; 6], |_, reply, fds| {
            let [segment] = exactly(fds)?;
            peer_side(reply.handle, &reply.vals, segment)
        })
    }
}

impl Call<u32> {
    /// See [`super::Client::port_attach`].
    pub fn port_attach(port: u64, unit: u64) -> Call<u32> {
        let args = [unit, 0, 0, 0, 0, 0];
        call(Op::PortAttach, port, args, |_, reply, fds| {
            let [] = exactly(fds)?;
            if reply.vals[0] >= SEGMENTS_MAX as u64 {
                return Err("no such segment index");
            }
            Ok(reply.vals[0] as u32)
        })
    }
}

impl Call<Segment> {
    /// See [`super::Client::port_segment`].
    pub fn port_segment(port: u64, index: u32) -> Call<Segment> {
        let args = [u64::from(index), 0, 0, 0, 0, 0];
        call(Op::PortSegment, port, args, |_, reply, fds| {
            let [fd] = exactly(fds)?;
            Ok(Segment {
                handle: granted(reply.handle)?,
                bytes: memory(&fd, reply.vals[0], OFlags::RDONLY)?,
                page_kind: page_kind(reply.vals[1])?,
                fd,
            })
        })
    }
}

impl Call<Ledger> {
    /// See [`super::Client::stats`].
    pub fn stats(domain: u64) -> Call<Ledger> {
        let args = [domain, StatsPage::Ledger as u64, 0, 0, 0, 0];
        call(Op::Stats, 0, args, |_, reply, fds| {
            let [] = exactly(fds)?;
            let [domains, capabilities, objects, free, owned, pinned] = reply.vals;
            Ok(Ledger {
                domains,
                capabilities,
                objects,
                frames_free: free,
                frames_owned: owned,
                frames_pinned: pinned,
            })
        })
    }
}

impl Call<Work> {
    /// See [`super::Client::work`].
    pub fn work() -> Call<Work> {
        let args = [0, StatsPage::Work as u64, 0, 0, 0, 0];
        call(Op::Stats, 0, args, |_, reply, fds| {
            let [] = exactly(fds)?;
            let [sessions, port_sides, jobs, closes, unbinding, pinned] = reply.vals;
            Ok(Work {
                sessions,
                port_sides,
                jobs,
                closes,
                unbinding,
                pinned,
            })
        })
    }
}

impl Call<Activity> {
    /// See [`super::Client::activity`].
    pub fn activity(domain: u64) -> Call<Activity> {
        let args = [domain, StatsPage::Activity as u64, 0, 0, 0, 0];
        call(Op::Stats, 0, args, |_, reply, fds| {
            let [] = exactly(fds)?;
            let [requests, refused, granted, lost, port_sides, state] = reply.vals;
            Ok(Activity {
                requests,
                refused,
                granted,
                lost,
                port_sides,
                state,
            })
        })
    }
}

impl Call<Option<DomainInfo>> {
    /// The domain after `last`, or the first (0). See [`super::Client::domains`].
    pub fn domain_next(last: u64) -> Call<Option<DomainInfo>> {
        call(
            Op::DomainNext,
            0,
            [last, 0, 0, 0, 0, 0],
            |request, reply, fds| {
                let [] = exactly(fds)?;
                let Some(domain) = going_on(request.args[0], reply.handle)? else {
                    return Ok(None);
                };
                let [pid, user, first, second, since_ms, session] = reply.vals;
                let name = ProcessName::from_words([first, second]);
                Ok(Some(DomainInfo {
                    domain,
                    pid: u32::try_from(pid).map_err(|_| "no such process")?,
                    uid: user as u32,
                    gid: (user >> 32) as u32,
                    name: name.ok_or("no such name of a process")?,
                    since_ms,
                    session,
                }))
            },
        )
    }
}

impl Call<Option<PortInfo>> {
    /// The port after `last`, or the first (0). See [`super::Client::ports`].
    pub fn port_next(last: u64) -> Call<Option<PortInfo>> {
        call(
            Op::PortNext,
            0,
            [last, 0, 0, 0, 0, 0],
            |request, reply, fds| {
                let [] = exactly(fds)?;
                let Some(port) = going_on(request.args[0], reply.handle)? else {
                    return Ok(None);
                };
                let [a, b, c, brief, one, other] = reply.vals;
                Ok(Some(PortInfo {
                    port,
                    name: PortName::from_words([a, b, c]).ok_or("no such name of a port")?,
                    brief: PortBrief::from_word(brief).ok_or("no such port")?,
                    sides: [one, other].map(|domain| (domain != 0).then_some(domain)),
                }))
            },
        )
    }
}

impl Call<PortCounts> {
    /// See [`super::Client::port_counts`].
    pub fn port_counts(port: u64) -> Call<PortCounts> {
        call(Op::PortCounts, 0, [port, 0, 0, 0, 0, 0], |_, reply, fds| {
            let [] = exactly(fds)?;
            let [one, other, at_ns, ..] = reply.vals;
            Ok(PortCounts {
                sent: [one, other],
                at_ns,
            })
        })
    }
}

impl Call<Counters> {
    /// See [`super::Client::counters`].
    pub fn counters() -> Call<Counters> {
        call(Op::Counters, 0, [0; 6], |_, reply, fds| {
            let [page] = exactly(fds)?;
            let bytes = 8 * counters::WORDS as u64;
            if reply.vals[0] < bytes {
                return Err("fewer counters than this version knows");
            }
            file(&page, bytes, OFlags::RDONLY)?;
            Ok(Counters::new(page))
        })
    }
}

/// The next one of a list after `last`: none at its end.
fn going_on(last: u64, next: u64) -> Decoded<Option<u64>> {
    if next != 0 && next == last {
        return Err("the list does not go on");
    }
    Ok((next != 0).then_some(next))
}

fn nothing(_: &Request, _: Reply, fds: Vec<OwnedFd>) -> Decoded<()> {
    let [] = exactly(fds)?;
    Ok(())
}
