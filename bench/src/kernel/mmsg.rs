//! Many datagrams per system call, and with UDP many segments per datagram.
//!
//! The headers and their buffers are laid out once: `messages` datagrams, each with room for
//! `segments` packets. Segmentation offload sends a datagram of many packets through the stack as
//! one and splits it only for a network card; a receiver that asked for it (UDP_GRO) gets it whole,
//! with the size of a segment.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use super::drive::{Endpoint, drive, or_zero};
use crate::pattern;
use crate::worker::{Job, Link, Meter, Mode, Report};

/// Datagrams per call when each holds many segments: 4 of 64 KiB fit the second-level cache.
const SEGMENTED_MESSAGES: usize = 4;
/// Room for one control message with the segment size.
const CONTROL_BYTES: usize = 64;

/// The buffers and headers of one direction. Boxed slices: the headers point into them.
struct Headers {
    bytes: Box<[u8]>,
    /// Bytes of one datagram's room.
    room: usize,
    control: Box<[[u64; CONTROL_BYTES / 8]]>,
    _vectors: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

impl Headers {
    fn new(messages: usize, room: usize, with_control: bool) -> Self {
        let mut bytes = vec![0u8; messages * room].into_boxed_slice();
        let mut control = vec![[0; CONTROL_BYTES / 8]; messages].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(room)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: room,
            })
            .collect();
        let messages = vectors
            .iter_mut()
            .zip(&mut control)
            .map(|(vector, control)| {
                // SAFETY: mmsghdr is integers and nullable pointers; all zeroes is an empty header.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                if with_control {
                    message.msg_hdr.msg_control = control.as_mut_ptr().cast();
                }
                message
            })
            .collect();
        Self {
            bytes,
            room,
            control,
            _vectors: vectors,
            messages,
        }
    }
}

/// A datagram socket that sends and receives several messages per call.
struct Batch {
    fd: OwnedFd,
    size: usize,
    segments: usize,
    output: Headers,
    input: Headers,
    /// Messages that were filled and not yet taken by the socket.
    pending: std::ops::Range<usize>,
}

/// Datagrams of one packet each.
pub(super) fn work(job: Job, link: Link, segments: usize) -> Result<Report> {
    let messages = if job.mode == Mode::RoundTrip {
        1
    } else {
        job.plan.burst
    };
    run(job, link, messages, segments)
}

/// UDP with segmentation offload: the plan's burst is the number of segments.
pub(super) fn work_segments(job: Job, link: Link) -> Result<Report> {
    let fd = job.fds.first().context("no socket was passed")?;
    let size = i32::try_from(job.plan.size)?;
    setsockopt(fd, sockopt::UdpGsoSegment, &size).context("UDP_SEGMENT needs Linux 4.18")?;
    setsockopt(fd, sockopt::UdpGroSegment, &true).context("UDP_GRO needs Linux 5.0")?;
    let segments = job.plan.burst;
    run(job, link, SEGMENTED_MESSAGES, segments)
}

fn run(mut job: Job, mut link: Link, messages: usize, segments: usize) -> Result<Report> {
    let fd = job.fds.pop().context("no socket was passed")?;
    let size = job.plan.size;
    // The kernel may join datagrams that were sent one by one, so segments may come in other
    // numbers.
    let room = if segments > 1 { 1 << 16 } else { size };
    let mut batch = Batch {
        fd,
        size,
        segments,
        output: Headers::new(messages, size * segments, false),
        input: Headers::new(messages, room, segments > 1),
        pending: 0..0,
    };
    let meter = link.ready(json!({}))?;
    let report = drive(&job, meter, &mut batch)?;
    Ok(report
        .with("messages_per_call", messages)
        .with("segments", segments))
}

impl Endpoint for Batch {
    fn send(&mut self, seq: u64) -> io::Result<usize> {
        let count = self.output.messages.len();
        if self.pending.is_empty() {
            let packets = self.output.bytes.chunks_exact_mut(self.size).zip(seq..);
            packets.for_each(|(packet, seq)| pattern::fill(packet, seq));
            self.pending = 0..count;
        }
        let messages = &mut self.output.messages[self.pending.clone()];
        // SAFETY: every header points into `output`, whose boxes live as long as `self` and do not
        // move.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
            )
        };
        self.pending.start += or_zero(result(sent))?;
        // As a whole or not at all, so that `seq` names the first packet of the buffer.
        Ok(if self.pending.is_empty() {
            count * self.segments
        } else {
            0
        })
    }

    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize> {
        let with_control = self.segments > 1;
        for message in &mut self.input.messages {
            message.msg_hdr.msg_controllen = if with_control { CONTROL_BYTES } else { 0 };
        }
        let messages = &mut self.input.messages;
        // SAFETY: every header points into `input`, whose boxes live as long as `self` and do not
        // move.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = or_zero(result(received))?;
        let rooms = self.input.bytes.chunks_exact(self.input.room);
        for ((room, message), control) in rooms
            .zip(messages.iter())
            .zip(&self.input.control)
            .take(received)
        {
            let bytes = &room[..message.msg_len as usize];
            let segment = if with_control {
                segment_bytes(control, message.msg_hdr.msg_controllen).unwrap_or(bytes.len())
            } else {
                bytes.len()
            };
            for packet in bytes.chunks(segment.max(1)) {
                if packet.len() == self.size {
                    meter.receive(packet)
                } else {
                    meter.corrupt(1)
                }
            }
        }
        Ok(received)
    }
}

/// The segment size in the one control message that UDP_GRO adds; none when the datagram was a
/// single one.
fn segment_bytes(control: &[u64; CONTROL_BYTES / 8], bytes: usize) -> Option<usize> {
    // cmsg_len; then level and type; then the value, whose 4 bytes are the low half of the next
    // word.
    let [length, kind, value, ..] = *control;
    let expected = (libc::SOL_UDP as u64) | (libc::UDP_GRO as u64) << 32;
    let there = bytes >= 20 && length >= 20 && kind == expected;
    (there && cfg!(target_endian = "little")).then_some(value as u32 as usize)
}

fn result(value: libc::c_int) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_size_is_found_and_nothing_else_is() {
        let kind = (libc::SOL_UDP as u64) | (libc::UDP_GRO as u64) << 32;
        assert_eq!(
            segment_bytes(&[20, kind, 1518, 0, 0, 0, 0, 0], 24),
            Some(1518)
        );
        assert_eq!(segment_bytes(&[20, kind, 1518, 0, 0, 0, 0, 0], 0), None);
        assert_eq!(segment_bytes(&[20, 1, 1518, 0, 0, 0, 0, 0], 24), None);
    }
}
