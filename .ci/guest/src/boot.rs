//! One guest from start to end: what it is given, how long it may live, what it said, and what that
//! means for each test that was to run in it.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::kernel::Kernel;
use crate::payload::Programs;
use crate::plan::{Event, Plan, SKIPPED, Step, Terminal};
use crate::qemu::{End, Qemu, Start};
use crate::report::{Outcome, Verdict};
use crate::stop::Stop;
use crate::test::{Boot, Machine, Test};

/// How long a guest may take until its agent speaks. Two to six seconds are usual; the machine may
/// be busy, or stopped for a while.
const BOOT_S: u64 = 90;
/// What the guest's own clock may be late by when it kills a test.
const SLACK_S: u64 = 10;
const TICK: Duration = Duration::from_millis(50);
/// What failed when all tests ended well and their guest did not.
const END: &str = "end-of-guest";
/// Lines of the console that a failure shows.
const CONSOLE_LINES: usize = 25;

/// Everything that guests are made from.
#[derive(Debug)]
pub struct Parts {
    /// QEMU.
    pub qemu: Qemu,
    /// The kernel.
    pub kernel: Kernel,
    /// The archive of the root.
    pub root: PathBuf,
}

/// How a run wants its guests.
pub struct Run<'a> {
    /// The cache, which also has the lock that lets one guest run at a time.
    pub cache: &'a Cache,
    /// What to put into guests.
    pub programs: &'a Programs,
    /// Where logs and files of tests go.
    pub results: &'a Path,
    /// Set when the user wants to stop.
    pub stop: &'a Stop,
    /// Whether scratch files stay.
    pub keep: bool,
    /// Is told what takes time.
    pub say: &'a dyn Fn(&str),
}

/// Files of one guest.
struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Run<'_> {
    /// Runs the tests of one boot, and calls `told` with each outcome as soon as it is known.
    pub fn tests(
        &self,
        parts: &Parts,
        boot: &Boot,
        told: &mut dyn FnMut(&Outcome),
    ) -> anyhow::Result<()> {
        let plan = Plan {
            kernel: boot.kernel.clone(),
            tests: boot.tests.iter().map(step).collect(),
            shell: None,
        };
        let waiting = || (self.say)("waiting for another guest");
        let _one_at_a_time = self.cache.lock("guest.lock", self.stop, waiting)?;
        let scratch = self.prepare(parts, boot.machine, &plan, &boot.tests)?;
        let (sender, events) = channel();
        let report = scratch.path("report");
        let listener = UnixListener::bind(&report)?;
        let mut child = self.start(parts, boot.machine, &scratch, false)?;
        let reader = thread::spawn(move || listen(&listener, &sender));
        let mut watch = Watch::new(boot, &scratch.path("console.log"));
        let ended = self.watch(&mut child, &events, &mut watch, told);
        if ended.is_err() {
            child.kill().unwrap_or_default();
            child.wait()?;
        }
        // Wakes a listener that QEMU never came to.
        drop(UnixStream::connect(&report));
        reader.join().unwrap_or_default();
        let ended = ended?;
        for event in events.try_iter() {
            watch.hear(event, told);
        }
        watch.finish(ended, told);
        let collected = self.collect(&scratch, boot, &watch);
        collected.with_context(|| format!("cannot write to {}", self.results.display()))?;
        self.leave(scratch);
        Ok(())
    }

    /// Gives a person a shell in a guest, and returns the shell's status.
    pub fn shell(&self, parts: &Parts, boot: &Boot, terminal: Terminal) -> anyhow::Result<u8> {
        let plan = Plan {
            kernel: boot.kernel.clone(),
            tests: Vec::new(),
            shell: Some(terminal),
        };
        let scratch = self.prepare(parts, boot.machine, &plan, &boot.tests)?;
        let _listener = UnixListener::bind(scratch.path("report"))?;
        let mut child = self.start(parts, boot.machine, &scratch, true)?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if let Err(stopped) = self.stop.check() {
                child.kill()?;
                child.wait()?;
                return Err(stopped.into());
            }
            thread::sleep(TICK);
        };
        self.leave(scratch);
        match End::of(status) {
            End::Verdict(status) => Ok(status),
            other => bail!("{}", other.describe()),
        }
    }

    fn prepare(
        &self,
        parts: &Parts,
        machine: Machine,
        plan: &Plan,
        tests: &[Test],
    ) -> anyhow::Result<Scratch> {
        let directory = tempfile::Builder::new().prefix("exo-guest-").tempdir()?;
        let scratch = Scratch { directory };
        let path = scratch.path("initrd");
        fs::copy(&parts.root, &path)?;
        let mut initrd = OpenOptions::new().append(true).open(&path)?;
        std::io::copy(&mut File::open(&parts.kernel.modules)?, &mut initrd)?;
        let payload = self.programs.payload(machine.root, plan, tests)?;
        payload.write_cpio(std::io::BufWriter::new(initrd))?;
        Ok(scratch)
    }

    fn start(
        &self,
        parts: &Parts,
        machine: Machine,
        scratch: &Scratch,
        interactive: bool,
    ) -> anyhow::Result<Child> {
        let mut command = parts.qemu.command(&Start {
            kernel: &parts.kernel.image,
            initrd: &scratch.path("initrd"),
            machine,
            report: &scratch.path("report"),
            files: &scratch.path("files.tar"),
            interactive,
        });
        if self.keep {
            (self.say)(&format!("starting {command:?}"));
        }
        if !interactive {
            let console = File::create(scratch.path("console.log"))?;
            command.stdin(Stdio::null());
            command.stdout(console.try_clone()?).stderr(console);
        }
        command.spawn().context("cannot start QEMU")
    }

    /// Until QEMU ends, or has to be ended.
    fn watch(
        &self,
        child: &mut Child,
        events: &Receiver<Event>,
        watch: &mut Watch,
        told: &mut dyn FnMut(&Outcome),
    ) -> anyhow::Result<Ended> {
        loop {
            self.stop.check()?;
            match events.recv_timeout(TICK) {
                Ok(event) => watch.hear(event, told),
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(status) = child.try_wait()? {
                return Ok(Ended::By(status));
            }
            if Instant::now() > watch.deadline {
                child.kill()?;
                child.wait()?;
                return Ok(Ended::TooLate);
            }
        }
    }

    /// Puts logs, and files that came back, where a person finds them.
    fn collect(&self, scratch: &Scratch, boot: &Boot, watch: &Watch) -> anyhow::Result<()> {
        let directory = |test: &str| self.results.join(&boot.kernel).join(test);
        for (test, lines) in &watch.logs {
            let directory = directory(test);
            fs::remove_dir_all(&directory).unwrap_or_default();
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("output.log"), lines.join("\n") + "\n")?;
            fs::copy(scratch.path("console.log"), directory.join("console.log"))?;
        }
        if let Ok(files) = File::open(scratch.path("files.tar"))
            && files.metadata()?.len() > 0
        {
            let mut archive = tar::Archive::new(files);
            archive.unpack(self.results.join(&boot.kernel))?;
        }
        Ok(())
    }

    fn leave(&self, scratch: Scratch) {
        if self.keep {
            let path = scratch.directory.keep();
            (self.say)(&format!("kept {}", path.display()));
        }
    }
}

fn step(test: &Test) -> Step {
    Step {
        name: test.name.clone(),
        timeout_s: test.timeout_s,
    }
}

/// Passes on what the agent reports, until its line is cut.
fn listen(listener: &UnixListener, sender: &Sender<Event>) {
    let Ok((stream, _)) = listener.accept() else {
        return;
    };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if let Ok(event) = serde_json::from_str(&line)
            && sender.send(event).is_err()
        {
            return;
        }
    }
}

/// How a guest was ended.
enum Ended {
    By(ExitStatus),
    TooLate,
}

/// What has been heard of a guest.
struct Watch {
    kernel: String,
    /// Tests that have not begun, last one first.
    waiting: Vec<Test>,
    running: Option<Running>,
    done: bool,
    deadline: Instant,
    console: PathBuf,
    /// Output of tests.
    logs: Vec<(String, Vec<String>)>,
}

struct Running {
    test: Test,
    since: Instant,
    lines: Vec<String>,
}

impl Watch {
    fn new(boot: &Boot, console: &Path) -> Watch {
        Watch {
            kernel: boot.kernel.clone(),
            waiting: boot.tests.iter().rev().cloned().collect(),
            running: None,
            done: false,
            deadline: Instant::now() + Duration::from_secs(BOOT_S),
            console: console.to_owned(),
            logs: Vec::new(),
        }
    }

    fn hear(&mut self, event: Event, told: &mut dyn FnMut(&Outcome)) {
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        match event {
            Event::Ready { .. } => self.deadline = later(SLACK_S),
            Event::Begin { .. } => {
                self.running = self.waiting.pop().map(|test| {
                    self.deadline = later(test.timeout_s + SLACK_S);
                    Running {
                        test,
                        since: Instant::now(),
                        lines: Vec::new(),
                    }
                });
            }
            Event::Line { text } => {
                if let Some(running) = &mut self.running {
                    running.lines.push(text);
                }
            }
            Event::End {
                status,
                seconds,
                timed_out,
            } => {
                self.deadline = later(SLACK_S);
                let last = self.running.as_ref().and_then(|r| r.lines.last().cloned());
                let verdict = verdict(status, timed_out, last);
                self.end(verdict, seconds, told);
            }
            Event::Done => self.done = true,
        }
    }

    fn end(&mut self, verdict: Verdict, seconds: f64, told: &mut dyn FnMut(&Outcome)) {
        if let Some(running) = self.running.take() {
            self.tell(running.test.name, verdict, seconds, running.lines, told);
        }
    }

    fn tell(
        &mut self,
        test: String,
        verdict: Verdict,
        seconds: f64,
        output: Vec<String>,
        told: &mut dyn FnMut(&Outcome),
    ) {
        let failed = matches!(verdict, Verdict::Failed(_));
        let outcome = Outcome {
            test,
            kernel: self.kernel.clone(),
            seconds,
            verdict,
            console: if failed {
                self.console_tail()
            } else {
                Vec::new()
            },
            output,
        };
        told(&outcome);
        self.logs.push((outcome.test, outcome.output));
    }

    /// Judges how the guest ended. Unless its agent was through and said so, the test that ran has
    /// failed, those that did not run have, and where there is neither, the end itself has.
    fn finish(&mut self, ended: Ended, told: &mut dyn FnMut(&Outcome)) {
        let reason = match ended {
            Ended::By(status) => match End::of(status) {
                End::Verdict(0) if self.done => return,
                End::Verdict(_) => "the agent in the guest failed".to_owned(),
                other => other.describe(),
            },
            Ended::TooLate => "the guest fell silent, and was ended".to_owned(),
        };
        let mut waiting = std::mem::take(&mut self.waiting);
        if let Some(running) = &self.running {
            let seconds = running.since.elapsed().as_secs_f64();
            self.end(Verdict::Failed(reason), seconds, told);
        } else {
            let first = waiting.pop().map(|test| test.name);
            let name = first.unwrap_or_else(|| END.to_owned());
            self.tell(name, Verdict::Failed(reason), 0.0, Vec::new(), told);
        }
        while let Some(test) = waiting.pop() {
            let verdict = Verdict::Failed("did not run: its guest died before".to_owned());
            self.tell(test.name, verdict, 0.0, Vec::new(), told);
        }
    }

    fn console_tail(&self) -> Vec<String> {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
        let tail = &lines[lines.len().saturating_sub(CONSOLE_LINES)..];
        tail.iter().map(|line| (*line).to_owned()).collect()
    }
}

fn verdict(status: i32, timed_out: bool, last: Option<String>) -> Verdict {
    match status {
        _ if timed_out => Verdict::Failed("killed, its time was over".to_owned()),
        0 => Verdict::Passed,
        SKIPPED => Verdict::Skipped(last.unwrap_or_else(|| "it does not say why".to_owned())),
        status => Verdict::Failed(format!("exit status {status}")),
    }
}

#[cfg(test)]
#[path = "boot/tests.rs"]
mod tests;
