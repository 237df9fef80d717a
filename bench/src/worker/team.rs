//! The parent's side: starts the workers of one run, leads them through its phases, collects
//! reports.
#![forbid(unsafe_code)]

use std::io::BufReader;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::child::{guard, guard_sharing};
use super::link::{Down, Up, receive, send};
use super::{Control, Job, Mode, Phase, Report, Role};
use crate::interrupt;
use crate::row::Plan;

/// Longest time that setting a link up may take: a namespace and a veth pair need less than 1 s.
const SETUP_LIMIT: Duration = Duration::from_secs(20);
/// Longest time from stop to report.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often a wait looks for an interrupt.
const POLL_NS: i64 = 50_000_000;

struct Worker {
    role: Role,
    child: Child,
    stream: BufReader<UnixStream>,
}

/// The workers of one run.
pub struct Team {
    row: String,
    mode: Mode,
    plan: Plan,
    control: Control,
    workers: Vec<Worker>,
    shares_core: bool,
}

impl Team {
    /// An empty team for one run of `row`.
    pub fn new(row: &str, plan: &Plan, mode: Mode) -> Result<Self> {
        let control = Control::create()?;
        Ok(Self {
            row: row.to_owned(),
            mode,
            plan: plan.clone(),
            control,
            workers: Vec::new(),
            shares_core: false,
        })
    }

    /// A team whose sender and receiver share a core: they stay in one session, unpreferred, and
    /// take turns.
    pub fn sharing_a_core(mut self) -> Self {
        self.shares_core = true;
        self
    }

    /// Starts a worker and waits until it is set up; returns what it said with `Link::ready`.
    pub fn start(&mut self, role: Role, args: Value, fds: Vec<OwnedFd>) -> Result<Value> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut inherited = vec![theirs.as_raw_fd(), self.control.as_fd().as_raw_fd()];
        inherited.extend(fds.iter().map(AsRawFd::as_raw_fd));
        let child = spawn(inherited, self.shares_core).context("cannot start a worker process")?;
        let mut worker = Worker {
            role,
            child,
            stream: BufReader::new(ours),
        };
        let (row, mode, plan) = (self.row.clone(), self.mode, self.plan.clone());
        let job = Job {
            row,
            role,
            mode,
            plan,
            shares_core: self.shares_core,
            args,
            fds: Vec::new(),
        };
        send(worker.stream.get_mut(), &Down::Job(job))?;
        // Pushed first, so that it is reaped however the wait ends.
        self.workers.push(worker);
        drop((theirs, fds));
        match self.hear(self.workers.len() - 1, SETUP_LIMIT)? {
            Up::Ready(info) => Ok(info),
            _ => bail!("the {role:?} of `{}` ended before the run began", self.row),
        }
    }

    /// The workers' processes.
    pub fn pids(&self) -> Vec<u32> {
        self.workers
            .iter()
            .map(|worker| worker.child.id())
            .collect()
    }

    /// Runs warm-up and window; returns the reports in the order of the starts.
    pub fn run(mut self) -> Result<Vec<Report>> {
        for worker in &mut self.workers {
            send(worker.stream.get_mut(), &Down::Go)?;
        }
        self.sleep(self.plan.warm_up)?;
        self.control.set(Phase::Window);
        self.sleep(self.plan.duration)?;
        self.control.set(Phase::Stop);
        let mut reports = Vec::new();
        for index in 0..self.workers.len() {
            match self.hear(index, STOP_LIMIT)? {
                Up::Result(report) => reports.push(report),
                _ => bail!(
                    "the {:?} of `{}` spoke out of turn",
                    self.workers[index].role,
                    self.row
                ),
            }
        }
        for worker in &mut self.workers {
            worker.child.wait()?;
        }
        Ok(reports)
    }

    /// `run` for a sender and a receiver, in whatever order they were started.
    pub fn run_pair(self) -> Result<(Report, Report)> {
        let roles: Vec<Role> = self.workers.iter().map(|worker| worker.role).collect();
        let mut sender = None;
        let mut receiver = None;
        for (role, report) in roles.into_iter().zip(self.run()?) {
            match role {
                Role::Sender => sender = Some(report),
                Role::Receiver => receiver = Some(report),
                Role::Forwarder => {}
            }
        }
        sender
            .zip(receiver)
            .context("a run needs a sender and a receiver")
    }

    /// Waits for a line of one worker; an error of it, or its end, is an error here.
    fn hear(&mut self, index: usize, limit: Duration) -> Result<Up> {
        let name = format!("{:?} of `{}`", self.workers[index].role, self.row);
        let end = Instant::now() + limit;
        while self.workers[index].stream.buffer().is_empty() {
            interrupt::check()?;
            if Instant::now() > end {
                bail!("the {name} did not answer within {} s", limit.as_secs());
            }
            let stream = self.workers[index].stream.get_ref();
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: POLL_NS,
            };
            match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        match receive(&mut self.workers[index].stream)? {
            Some(Up::Error(error)) => bail!("the {name} failed: {error}"),
            Some(message) => Ok(message),
            None => bail!(
                "the {name} ended without a word: {}",
                self.workers[index].child.wait()?
            ),
        }
    }

    /// Sleeps through a phase, but not past a worker that speaks (it can only have failed) or an
    /// interrupt.
    fn sleep(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            interrupt::check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let nanos = (left.as_nanos() as i64).min(POLL_NS);
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: nanos,
            };
            let mut fds: Vec<PollFd<'_>> = self
                .workers
                .iter()
                .map(|worker| PollFd::new(worker.stream.get_ref(), PollFlags::IN))
                .collect();
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let ready = fds
                .iter()
                .position(|fd| !fd.revents().is_empty())
                .unwrap_or(0);
            let name = format!("{:?} of `{}`", self.workers[ready].role, self.row);
            self.hear(ready, STOP_LIMIT)?;
            bail!("the {name} ended before its window did");
        }
    }
}

impl Drop for Team {
    /// Ends whoever still runs: after an error or an interrupt nobody waits for a polite answer.
    fn drop(&mut self) {
        self.control.set(Phase::Stop);
        for worker in &mut self.workers {
            if !matches!(worker.child.try_wait(), Ok(Some(_))) {
                let _ = worker.child.kill();
                let _ = worker.child.wait();
            }
        }
    }
}

fn spawn(inherited: Vec<RawFd>, shares_core: bool) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("worker")
        .args(inherited.iter().map(RawFd::to_string))
        .stdin(Stdio::null());
    let prepare = if shares_core { guard_sharing } else { guard };
    prepare(&mut command, inherited).spawn()
}
