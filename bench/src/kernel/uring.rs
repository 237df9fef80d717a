//! UDP through io_uring: a registered socket, many sends per call, and one multishot receive that
//! fills buffers from a ring of provided ones.
//!
//! One thread submits and completes (SINGLE_ISSUER, DEFER_TASKRUN): the kernel does the work of
//! arrived packets when this thread enters, and a flag in shared memory says when that is worth a
//! call, so that an idle poll costs a load.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result};
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::MmapRaw;
use serde_json::json;

use super::drive::{Endpoint, drive};
use crate::pattern;
use crate::worker::{Job, Link, Meter, Mode, Report};

/// Provided buffers, a power of two: enough for what arrives between two visits.
const BUFFERS: u16 = 256;
const GROUP: u16 = 1;
/// The registered socket's place.
const SOCKET: Fixed = Fixed(0);
/// Marks the completions of sends and of the multishot receive.
const SEND: u64 = 1;
const RECEIVE: u64 = 2;

/// Why this row cannot run.
pub(super) fn unavailable() -> Option<String> {
    let failure = build().err()?;
    Some(format!(
        "io_uring: {failure}: needs Linux 6.1 and kernel.io_uring_disabled=0"
    ))
}

fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(4 * u32::from(BUFFERS))
        .build(u32::from(BUFFERS))
}

/// Buffers for the kernel to choose from, and the ring in which they are offered.
struct Provided {
    ring: MmapRaw,
    bytes: Box<[u8]>,
    room: usize,
    tail: u16,
}

impl Provided {
    fn new(room: usize) -> Result<Self> {
        let len = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let ring = MmapRaw::from(memmap2::MmapMut::map_anon(len)?);
        let bytes = vec![0; usize::from(BUFFERS) * room].into_boxed_slice();
        let mut provided = Self {
            ring,
            bytes,
            room,
            tail: 0,
        };
        for id in 0..BUFFERS {
            provided.offer(id);
        }
        provided.publish();
        Ok(provided)
    }

    /// Puts buffer `id` at the end of the ring; `publish` shows it to the kernel.
    fn offer(&mut self, id: u16) {
        let slot = usize::from(self.tail % BUFFERS);
        let at = &raw mut self.bytes[usize::from(id) * self.room];
        // SAFETY: `slot` is below the number of entries that the mapping holds, the mapping is
        // zeroed and page-aligned, and the kernel reads the entry only after `publish`. Entries are
        // set field by field because the first one shares its last bytes with the ring's tail.
        unsafe {
            let entry = &mut *self.ring.as_mut_ptr().cast::<BufRingEntry>().add(slot);
            entry.set_addr(at as u64);
            entry.set_len(self.room as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry of the mapping, aligned, and is shared with the
        // kernel.
        let tail = unsafe {
            AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr().cast()).cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }
}

/// The socket and its io_uring. Field order: the ring is closed before the memory that it was given
/// goes.
struct Ring {
    uring: IoUring,
    _fd: OwnedFd,
    provided: Provided,
    out: Box<[u8]>,
    size: usize,
    burst: usize,
    armed: bool,
    /// Buffers that hold packets which nobody looked at yet: a send may see them complete first.
    arrived: Vec<(u16, usize)>,
}

pub(super) fn work(mut job: Job, mut link: Link) -> Result<Report> {
    let fd = job.fds.pop().context("no socket was passed")?;
    // A send that finds no room waits inside io_uring instead of failing, so the numbers have no
    // gaps of ours.
    rustix::io::ioctl_fionbio(&fd, false)?;
    let size = job.plan.size;
    let burst = if job.mode == Mode::RoundTrip {
        1
    } else {
        job.plan.burst.min(BUFFERS.into())
    };
    let uring = build().context("cannot set io_uring up")?;
    uring.submitter().register_files(&[fd.as_raw_fd()])?;
    let provided = Provided::new(size)?;
    let at = provided.ring.as_ptr() as u64;
    // SAFETY: the mapping has BUFFERS entries and lives longer than the io_uring that it is given
    // to.
    unsafe {
        uring
            .submitter()
            .register_buf_ring_with_flags(at, BUFFERS, GROUP, 0)?
    };
    let out = vec![0; size * burst].into_boxed_slice();
    let mut ring = Ring {
        uring,
        _fd: fd,
        provided,
        out,
        size,
        burst,
        armed: false,
        arrived: Vec::with_capacity(BUFFERS.into()),
    };
    let meter = link.ready(json!({}))?;
    Ok(drive(&job, meter, &mut ring)?.with("provided_buffers", BUFFERS))
}

impl Ring {
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: sends point into `out`, which is not written before their completion is seen; the
        // receive uses the provided buffers. Both outlive the ring.
        unsafe { self.uring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Takes completions: notes arrived packets, returns how many sends ended.
    fn complete(&mut self) -> io::Result<usize> {
        let mut sends = 0;
        let mut queue = self.uring.completion();
        queue.sync();
        for entry in queue {
            if entry.user_data() == SEND {
                sends += 1;
                check(entry.result())?;
                continue;
            }
            self.armed &= cqueue::more(entry.flags());
            match cqueue::buffer_select(entry.flags()) {
                Some(id) => self.arrived.push((id, entry.result().max(0) as usize)),
                None => check(entry.result())?,
            }
        }
        Ok(sends)
    }
}

/// Out of buffers, or the peer stopped a moment before us: both end here without harm.
fn check(result: i32) -> io::Result<()> {
    match -result {
        ..=0 | libc::ENOBUFS | libc::ECONNREFUSED | libc::EINTR => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Endpoint for Ring {
    fn send(&mut self, seq: u64) -> io::Result<usize> {
        for index in 0..self.burst {
            let packet = &mut self.out[index * self.size..][..self.size];
            pattern::fill(packet, seq + index as u64);
            let send = opcode::Send::new(SOCKET, packet.as_ptr(), self.size as u32);
            self.push(&send.build().user_data(SEND))?;
        }
        let mut left = self.burst;
        while left > 0 {
            self.uring.submit_and_wait(1)?;
            left -= self.complete()?.min(left);
        }
        Ok(self.burst)
    }

    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize> {
        if !self.armed {
            let receive = opcode::RecvMulti::new(SOCKET, GROUP)
                .build()
                .user_data(RECEIVE);
            self.push(&receive)?;
            self.armed = true;
            self.uring.submit()?;
        }
        if self.uring.submission().taskrun() {
            // Runs the work that waits for this thread; waits for nothing.
            self.uring.submit()?;
        }
        self.complete()?;
        let packets = self.arrived.len();
        for (id, len) in self.arrived.drain(..) {
            meter.receive(&self.provided.bytes[usize::from(id) * self.size..][..len]);
            self.provided.offer(id);
        }
        self.provided.publish();
        Ok(packets)
    }
}
