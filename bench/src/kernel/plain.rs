//! One system call per packet.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::json;

use super::drive::{Endpoint, drive, or_zero};
use crate::pattern;
use crate::worker::{Job, Link, Meter, Report};

struct Plain {
    fd: OwnedFd,
    out: Vec<u8>,
    input: Vec<u8>,
}

pub(super) fn work(mut job: Job, mut link: Link) -> Result<Report> {
    let fd = job.fds.pop().context("no socket was passed")?;
    let size = job.plan.size;
    let mut plain = Plain {
        fd,
        out: vec![0; size],
        input: vec![0; size],
    };
    let meter = link.ready(json!({}))?;
    drive(&job, meter, &mut plain)
}

impl Endpoint for Plain {
    fn send(&mut self, seq: u64) -> io::Result<usize> {
        pattern::fill(&mut self.out, seq);
        or_zero(send(&self.fd, &self.out, SendFlags::DONTWAIT).map_err(Into::into))
            .map(|n| n.min(1))
    }

    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize> {
        let received = recv(&self.fd, &mut self.input[..], RecvFlags::DONTWAIT);
        let bytes = or_zero(received.map(|(bytes, _)| bytes).map_err(Into::into))?;
        if bytes == 0 {
            return Ok(0);
        }
        meter.receive(&self.input[..bytes]);
        Ok(1)
    }
}
