//! System calls per packet while both sides are busy, as strace counts them.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::row::{Figure, Plan};
use crate::worker::{Team, guard};

/// From the window's start until strace attaches, and before its end when it leaves.
const MARGIN: Duration = Duration::from_millis(50);

/// The figure; none where strace is missing or may not attach.
pub(super) fn per_packet(team: Team, plan: &Plan) -> Result<Option<Figure>> {
    let pids = team.pids();
    let (warm_up, window) = (plan.warm_up, plan.duration.saturating_sub(2 * MARGIN));
    let counting = thread::spawn(move || {
        thread::sleep(warm_up + MARGIN);
        count(&pids, window)
    });
    let (_, receiver) = team.run_pair()?;
    let calls = counting
        .join()
        .map_err(|_| anyhow::anyhow!("the strace thread panicked"))?;
    let Some(calls) = calls? else {
        return Ok(None);
    };
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

/// System calls of all processes within a time; none without strace.
fn count(pids: &[u32], window: Duration) -> Result<Option<u64>> {
    let mut command = Command::new("strace");
    command.args(["-c", "-f", "-U", "calls"]);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let Ok(strace) = guard(&mut command, Vec::new()).spawn() else {
        return Ok(None);
    };
    thread::sleep(window);
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT).context("strace ended early")?;
    let output = strace.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let attached = said
        .lines()
        .filter(|line| line.contains("attached"))
        .count();
    if attached < pids.len() {
        return Ok(None);
    }
    Ok(Some(total(&said)))
}

/// The sum of strace's one column of counts; no lines mean no calls.
fn total(said: &str) -> u64 {
    said.lines()
        .filter_map(|line| line.trim().parse::<u64>().ok())
        .sum()
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
        let counted = count(&[busy.id()], Duration::from_millis(500)).unwrap();
        busy.kill().unwrap();
        busy.wait().unwrap();
        match counted {
            None => println!("skipped: strace is missing or may not attach"),
            Some(calls) => assert!(calls > 10, "{calls}"),
        }
    }
}
