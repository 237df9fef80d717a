//! One record out, one record in, with its descriptors; nothing is known here of what they mean.
//!
//! Received descriptors are owned from the first moment and close-on-exec, so whatever goes wrong
//! afterwards closes them.

#![forbid(unsafe_code)]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags, SendFlags, recvmsg,
    send,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::wire::{FDS_MAX, Reply, Request};

/// A reply with what came along.
#[derive(Debug)]
pub(super) struct Record {
    pub reply: Reply,
    pub fds: Vec<OwnedFd>,
}

/// Why there is no record.
#[derive(Debug)]
pub(super) enum Fault {
    /// The deadline passed. Nothing was sent or received.
    TimedOut,
    /// The other end is gone.
    Closed,
    /// What came is not a record.
    Nonsense(&'static str),
    /// The kernel refused.
    System(&'static str, Errno),
}

/// Sends a record, whole.
pub(super) fn send_record(
    socket: BorrowedFd<'_>,
    request: &Request,
    deadline: Option<Instant>,
) -> Result<(), Fault> {
    loop {
        match send(
            socket,
            request.as_bytes(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, deadline)?,
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Fault::Closed),
            Err(errno) => return Err(Fault::System("send", errno)),
        }
    }
}

/// Receives a record, waiting for it until the deadline.
pub(super) fn receive_record(
    socket: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<Record, Fault> {
    // One byte more than a record, so that a longer one shows.
    let mut bytes = [0; size_of::<Reply>() + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    loop {
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(socket, &mut parts, &mut control, flags) {
            Ok(message) => return record(&bytes, &message, &mut control),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline)?,
            Err(Errno::CONNRESET | Errno::NOTCONN) => return Err(Fault::Closed),
            Err(errno) => return Err(Fault::System("recvmsg", errno)),
        }
    }
}

/// Checks what was received for being one record with whole ancillary data.
fn record(
    bytes: &[u8],
    message: &RecvMsg,
    control: &mut RecvAncillaryBuffer<'_>,
) -> Result<Record, Fault> {
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    if message.bytes == 0 {
        return Err(Fault::Closed);
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Fault::Nonsense("descriptors were cut off"));
    }
    if message.bytes != size_of::<Reply>() {
        return Err(Fault::Nonsense("a record of another length"));
    }
    match Reply::read_from_prefix(bytes) {
        Ok((reply, _)) => Ok(Record { reply, fds }),
        Err(_) => Err(Fault::Nonsense("a record of another length")),
    }
}

/// Waits until the socket is ready or the deadline passes.
fn wait(socket: BorrowedFd<'_>, events: PollFlags, deadline: Option<Instant>) -> Result<(), Fault> {
    let mut polled = [PollFd::from_borrowed_fd(socket, events)];
    match poll_until(&mut polled, deadline) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::TimedOut),
        Err(errno) => Err(Fault::System("poll", errno)),
    }
}

/// Polls until something is ready (true) or the deadline passes (false), across signals.
pub(super) fn poll_until(
    polled: &mut [PollFd<'_>],
    deadline: Option<Instant>,
) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        match poll(polled, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// When something that begins now must have ended; a timeout beyond the clock's end is none.
pub(super) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}
