//! System calls per packet while both sides are busy, as strace counts them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::row::{Figure, Plan};
use crate::worker::{Team, guard};

/// How long strace may take to attach.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
/// Left out at both ends of the window: the parent's clock is not the workers'.
const MARGIN: Duration = Duration::from_millis(50);

/// The figure; none where strace is missing or may not attach.
pub(super) fn per_packet(team: Team, plan: &Plan) -> Result<Option<Figure>> {
    let Some(strace) = Strace::attach(&team.pids())? else {
        return Ok(None);
    };
    let opens = SystemTime::now() + plan.warm_up;
    let (_, receiver) = team.run_pair()?;
    let calls = strace.calls(opens + MARGIN, opens + plan.duration - MARGIN)?;
    if receiver.packets == 0 {
        bail!("no packets were received while strace counted");
    }
    let value = calls as f64 / receiver.packets as f64;
    Ok(Some(Figure {
        metric: "syscalls-per-packet",
        value,
        unit: "calls/packet",
    }))
}

/// strace on some processes, from before their window until they end: it costs them nothing as
/// long as they make no call.
struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    fn attach(pids: &[u32]) -> Result<Option<Strace>> {
        let log = std::env::temp_dir().join(format!("netbench-strace-{}", std::process::id()));
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "-o"]).arg(&log);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let Ok(mut child) = guard(&mut command, Vec::new()).spawn() else {
            return Ok(None);
        };
        let said = child.stderr.take().context("strace has no output")?;
        let strace = Strace { child, log };
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(said).lines().map_while(Result::ok);
            for line in lines.filter(|line| line.ends_with("attached")) {
                let _ = tell.send(line);
            }
        });
        // The channel ends when strace does.
        let attached = pids.iter().all(|_| told.recv_timeout(ATTACH_LIMIT).is_ok());
        Ok(attached.then_some(strace))
    }

    /// Calls that began between two times.
    fn calls(mut self, from: SystemTime, to: SystemTime) -> Result<u64> {
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        self.child.wait()?;
        let log = fs::read_to_string(&self.log).context("strace left no log")?;
        let from = from.duration_since(UNIX_EPOCH)?.as_secs_f64();
        let to = to.duration_since(UNIX_EPOCH)?.as_secs_f64();
        let times = log.lines().filter_map(time_of);
        Ok(times.filter(|time| (from..to).contains(time)).count() as u64)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}

/// When the call of a line `PID SECONDS CALL` began; none for lines that tell of no call.
fn time_of(line: &str) -> Option<f64> {
    let mut words = line.split_whitespace();
    let time = words.nth(1)?.parse().ok()?;
    let call = words.next()?;
    (!call.starts_with("---") && !call.starts_with("+++")).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strace_counts_calls_that_are_made() {
        // Sleeping a little at a time, so that there are calls to be counted.
        let mut busy = Command::new("sh")
            .args(["-c", "while :; do sleep 0.01; done"])
            .spawn()
            .unwrap();
        let strace = Strace::attach(&[busy.id()]).unwrap();
        let start = SystemTime::now();
        thread::sleep(Duration::from_millis(500));
        let calls = strace.map(|strace| strace.calls(start, SystemTime::now()).unwrap());
        busy.kill().unwrap();
        busy.wait().unwrap();
        match calls {
            None => println!("skipped: strace is missing or may not attach"),
            Some(calls) => assert!(calls > 10, "{calls}"),
        }
    }
}
