//! A program of somebody else's that is spoken to by lines.
//!
//! It cannot outlive netbench (`worker::guard`), gets the same scheduling preference as our own
//! workers, and every wait for it ends: by the line that was waited for, its end, a time limit, or
//! Ctrl-C. What it said last is part of every error.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, setpriority_process};

use crate::interrupt;
use crate::worker;

/// Longest time that a program may take to answer or to come up.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Longest time that it may take to leave after it was told.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How often a wait looks for an interrupt.
const STEP: Duration = Duration::from_millis(20);
/// Lines kept for the error message.
const LAST_LINES: usize = 8;

/// A running program.
pub(super) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    last: VecDeque<String>,
}

impl Process {
    /// Starts a program with its standard streams connected.
    pub(super) fn start(name: &str, mut command: Command) -> Result<Self> {
        worker::guard(&mut command, Vec::new());
        let process = Self::spawn(name, command)?;
        prefer(process.child.id());
        Ok(process)
    }

    /// The same for a program that shares its core with another one and takes turns with it.
    ///
    /// With autogroup scheduling a yield reaches only programs of the same session, so these stay
    /// in ours (in a process group of their own, where no Ctrl-C reaches them).
    /// The program must end by itself when its parent does.
    pub(super) fn start_sharing(name: &str, mut command: Command) -> Result<Self> {
        command.process_group(0);
        let process = Self::spawn(name, command)?;
        worker::take_turns(process.child.id() as i32);
        Ok(process)
    }

    fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (sender, lines) = channel();
        // Ends with the program: nobody else has the pipe's other end once `command` is dropped.
        drop(command);
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            last: VecDeque::new(),
        })
    }

    /// Sends one line.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is closed")?;
        if writeln!(stdin, "{line}").is_err() {
            return Err(self.failed("went away"));
        }
        Ok(())
    }

    /// Reads on until `wanted` finds what it wants in a line.
    pub(super) fn hear<T>(&mut self, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(STEP) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.keep(line);
                    if let Some(found) = found {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => {}
                Err(RecvTimeoutError::Timeout) => {
                    let limit = ANSWER_LIMIT.as_secs();
                    return Err(self.failed(&format!("did not answer within {limit} s")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failed("ended"));
                }
            }
        }
    }

    /// Closes its stdin, by which every program here is told to leave, and waits until it is gone.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let end = Instant::now() + END_LIMIT;
        while Instant::now() < end {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(STEP);
        }
        bail!(
            "{} did not leave within {} s and was killed",
            self.name,
            END_LIMIT.as_secs()
        )
    }

    fn keep(&mut self, line: String) {
        if !line.is_empty() {
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }

    /// The error that something went wrong, with what the program said last.
    fn failed(&mut self, what: &str) -> anyhow::Error {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        let name = &self.name;
        let lines: Vec<&str> = self.last.iter().map(String::as_str).collect();
        if lines.is_empty() {
            return anyhow!("{name} {what} without a word");
        }
        anyhow!("{name} {what}; it said last: {}", lines.join(" | "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Gives a new process what `worker::raise_priority` gives our own. Without root neither gets it.
fn prefer(id: u32) {
    let _ = fs::write(format!("/proc/{id}/autogroup"), "-20");
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    let _ = setpriority_process(pid, -20);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("the script", command).unwrap()
    }

    #[test]
    fn lines_go_both_ways_and_the_end_of_stdin_ends_it() {
        let mut process = shell("while read line; do echo noise; echo \"got $line\"; done");
        process.say("one").unwrap();
        let heard = process.hear(|line| line.strip_prefix("got ").map(str::to_owned));
        assert_eq!(heard.unwrap(), "one");
        process.end().unwrap();
    }

    #[test]
    fn an_early_end_is_an_error_with_its_last_words() {
        let mut process = shell("echo no memory >&2; exit 1");
        let error = process.hear(|_| None::<()>).unwrap_err().to_string();
        assert!(error.contains("no memory"), "{error}");
    }

    #[test]
    fn dropping_it_kills_it() {
        let process = shell("trap '' TERM HUP; echo up; sleep 1000");
        let id = process.child.id();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }
}
