//! The side in the guest: runs the plan, reports, sends files back, and leaves a verdict.
//!
//! The verdict is about the agent: 0 says that the whole plan was carried out and reported. Whether
//! tests passed, the host knows from their events. With a shell it is the shell's status.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write, pipe};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::plan::{Event, FILES, OUT, PLAN, Plan, Step, TESTS, Terminal};
use crate::qemu::{self, VERDICT_PORT};

/// The verdict of an agent that failed.
const FAILED: u8 = 101;
/// How long a virtio port may take to appear.
const PORT_PATIENCE: Duration = Duration::from_secs(10);
/// How long output of what a test left running is waited for.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(10);
const PATH: &str =
    "/guest/bin:/guest/test-binaries:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Carries out the plan and ends the guest. Comes back only if that fails.
pub fn run() -> anyhow::Result<()> {
    let verdict = carry_out().unwrap_or_else(|error| {
        println!("guest: the agent failed: {error:#}");
        FAILED
    });
    rustix::fs::sync();
    let port = OpenOptions::new().write(true).open("/dev/port");
    let port = port.context("no /dev/port to leave the verdict at")?;
    port.write_at(&[verdict], VERDICT_PORT)?;
    bail!("the verdict changed nothing")
}

fn carry_out() -> anyhow::Result<u8> {
    let plan = fs::read_to_string(PLAN).with_context(|| format!("cannot read {PLAN}"))?;
    let plan: Plan = serde_json::from_str(&plan)?;
    fs::create_dir_all(OUT)?;
    let verdict = match &plan.shell {
        Some(terminal) => shell(&plan, terminal)?,
        None => {
            tests(&plan)?;
            0
        }
    };
    Ok(verdict)
}

fn tests(plan: &Plan) -> anyhow::Result<()> {
    let mut report = OpenOptions::new().write(true).open(port(qemu::REPORT)?)?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime = uptime.split(' ').next().unwrap_or_default();
    send(
        &mut report,
        &Event::Ready {
            uptime_s: uptime.parse()?,
        },
    )?;
    for step in &plan.tests {
        println!("guest: {} begins", step.name);
        send(
            &mut report,
            &Event::Begin {
                test: step.name.clone(),
            },
        )?;
        let end = run_test(plan, step, &mut report)?;
        send(&mut report, &end)?;
    }
    archive()?;
    send(&mut report, &Event::Done)
}

fn send(report: &mut File, event: &Event) -> anyhow::Result<()> {
    let line = serde_json::to_string(event)? + "\n";
    report
        .write_all(line.as_bytes())
        .context("cannot report to the host")
}

/// The device of a virtio port.
fn port(name: &str) -> anyhow::Result<PathBuf> {
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports");
        for entry in ports.into_iter().flatten().flatten() {
            let found = fs::read_to_string(entry.path().join("name"));
            if found.is_ok_and(|found| found.trim() == name) {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        if Instant::now() > until {
            bail!("no virtio port {name}: were virtio_pci and virtio_console loaded?");
        }
        thread::sleep(TICK);
    }
}

/// Everything that a test or a person at the shell finds set.
fn prepare(command: &mut Command, plan: &Plan, out: &Path) {
    command
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("GUEST_KERNEL", &plan.kernel)
        .env("GUEST_FILES", FILES)
        .env("GUEST_OUT", out);
}

fn run_test(plan: &Plan, step: &Step, report: &mut File) -> anyhow::Result<Event> {
    let out = Path::new(OUT).join(&step.name);
    let scratch = Path::new("/tmp").join(&step.name);
    fs::create_dir_all(&out)?;
    fs::create_dir_all(&scratch)?;
    let (reader, writer) = pipe()?;
    let mut command = Command::new(Path::new(TESTS).join(format!("{}.sh", step.name)));
    prepare(&mut command, plan, &out);
    let started = Instant::now();
    let mut child = command
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .context("cannot start the script")?;
    // It has the other ends of the pipe, which close with its last process.
    drop(command);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || read_lines(BufReader::new(reader), &sender));
    let until = started + Duration::from_secs(step.timeout_s);
    let mut timed_out = false;
    let status = loop {
        while let Ok(text) = lines.try_recv() {
            send(report, &Event::Line { text })?;
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until && !timed_out {
            timed_out = true;
            kill_group(child.id());
        }
        thread::sleep(TICK);
    };
    let seconds = started.elapsed().as_secs_f64();
    kill_group(child.id());
    let until = Instant::now() + OUTPUT_PATIENCE;
    while let Ok(text) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        send(report, &Event::Line { text })?;
    }
    fs::remove_dir_all(&scratch).unwrap_or_default();
    Ok(Event::End {
        status: number_of(status),
        seconds,
        timed_out,
    })
}

fn read_lines(mut reader: impl BufRead, sender: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|size| size > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if sender.send(text).is_err() {
            return;
        }
        line.clear();
    }
}

/// Kills a test and what it left in its process group. There may be nobody left.
fn kill_group(id: u32) {
    if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        kill_process_group(group, Signal::KILL).unwrap_or_default();
    }
}

fn number_of(status: ExitStatus) -> i32 {
    let signal = status.signal().unwrap_or_default();
    status.code().unwrap_or(128 + signal)
}

/// Sends what tests left in their directories.
fn archive() -> anyhow::Result<()> {
    let port = OpenOptions::new().write(true).open(port(qemu::FILES)?)?;
    let mut archive = tar::Builder::new(port);
    archive.follow_symlinks(false);
    archive.append_dir_all(".", OUT)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn shell(plan: &Plan, terminal: &Terminal) -> anyhow::Result<u8> {
    let shell = ["/bin/bash", "/bin/sh"];
    let shell = shell.into_iter().find(|path| Path::new(path).exists());
    let shell = shell.context("this root has no shell")?;
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ttyS0")?;
    let stty = |arguments: &[String]| {
        let mut stty = Command::new("stty");
        stty.args(arguments).env("PATH", PATH);
        stty.stdin(console.try_clone()?).status()
    };
    stty(&["sane".to_owned()])?;
    if terminal.columns > 0 {
        let (columns, rows) = (terminal.columns.to_string(), terminal.rows.to_string());
        stty(&["cols".to_owned(), columns, "rows".to_owned(), rows])?;
    }
    println!(
        "\nLinux {}. Programs of the project are in PATH, files in {FILES}, tests in {TESTS}.\n\
         `exit` ends the guest; Ctrl-A X ends it by force.",
        plan.kernel
    );
    // A session of its own, so that the console becomes its terminal and Ctrl-C works.
    let mut command = Command::new("setsid");
    command.args(["-c", shell]);
    prepare(&mut command, plan, Path::new(OUT));
    let status = command
        .env("TERM", &terminal.kind)
        .env("PS1", "guest# ")
        .current_dir("/root")
        .stdin(console.try_clone()?)
        .stdout(console.try_clone()?)
        .stderr(console.try_clone()?)
        .status()?;
    Ok(u8::try_from(number_of(status)).unwrap_or(FAILED) & 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_whole_and_the_last_one_too() {
        let (sender, lines) = mpsc::channel();
        read_lines(&b"one\ntwo \xff\r\nlast"[..], &sender);
        drop(sender);
        let lines: Vec<String> = lines.iter().collect();
        assert_eq!(lines, ["one", "two \u{fffd}", "last"]);
    }

    #[test]
    fn a_signal_becomes_a_status() {
        assert_eq!(number_of(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(number_of(ExitStatus::from_raw(9)), 137);
    }
}
