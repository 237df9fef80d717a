//! A pipe: a stream of records of one fixed size.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use serde_json::json;

use super::drive::{Endpoint, drive, or_zero};
use crate::pattern;
use crate::worker::{Job, Link, Meter, Mode, Report};

/// What an ordinary user may ask for (/proc/sys/fs/pipe-max-size).
const PIPE_BYTES: i32 = 1 << 20;

/// One pipe there and one back.
pub(super) fn pair() -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (there, back) = (pipe2(flags)?, pipe2(flags)?);
    for end in [&there.1, &back.1] {
        // Refused when the user's pipes hold too many pages already; 64 KiB then, and the row says
        // so.
        let _ = fcntl(end, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
    Ok((vec![back.0, there.1], vec![there.0, back.1]))
}

struct Pipe {
    size: usize,
    input: OwnedFd,
    output: OwnedFd,
    /// Records that were written to the buffer, of which `sent` bytes are in the pipe.
    out: Vec<u8>,
    sent: usize,
    /// Bytes that were read, of which `filled` wait for the rest of their record.
    read: Vec<u8>,
    filled: usize,
}

pub(super) fn work(mut job: Job, mut link: Link) -> Result<Report> {
    let output = job.fds.pop().context("no pipe was passed")?;
    let input = job.fds.pop().context("no pipe was passed")?;
    let (size, burst) = (job.plan.size, job.plan.burst);
    let bytes = size
        * if job.mode == Mode::RoundTrip {
            1
        } else {
            burst
        };
    let held = fcntl(&output, FcntlArg::F_GETPIPE_SZ)?;
    let mut pipe = Pipe {
        size,
        input,
        output,
        out: vec![0; bytes],
        sent: bytes,
        read: vec![0; bytes],
        filled: 0,
    };
    let meter = link.ready(json!({}))?;
    Ok(drive(&job, meter, &mut pipe)?.with("pipe_bytes", held))
}

impl Endpoint for Pipe {
    fn send(&mut self, seq: u64) -> io::Result<usize> {
        if self.sent == self.out.len() {
            let records = self.out.chunks_exact_mut(self.size).zip(seq..);
            records.for_each(|(record, seq)| pattern::fill(record, seq));
            self.sent = 0;
        }
        // A full pipe takes part of a batch: only the record that completes it moves the count on.
        let written = rustix::io::write(&self.output, &self.out[self.sent..]);
        self.sent += or_zero(written.map_err(Into::into))?;
        Ok(if self.sent == self.out.len() {
            self.out.len() / self.size
        } else {
            0
        })
    }

    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize> {
        let read = rustix::io::read(&self.input, &mut self.read[self.filled..]);
        self.filled += or_zero(read.map_err(Into::into))?;
        let whole = self.filled / self.size;
        for record in self.read.chunks_exact(self.size).take(whole) {
            meter.receive(record);
        }
        self.read.copy_within(whole * self.size..self.filled, 0);
        self.filled -= whole * self.size;
        Ok(whole)
    }
}
