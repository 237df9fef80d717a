//! A real exod in a directory of its own, which ends with its owner.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libexo::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::{Map, Value, json};

use super::rows::Programs;
use crate::hugepages::Lease;
use crate::interrupt;

/// Frames of 2 MiB that exod is configured with.
pub(super) const FRAMES: u64 = 1024;
/// Longest that starting, settling or stopping may take; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at something that is about to happen.
const LOOK: Duration = Duration::from_millis(2);

/// A running exod.
pub(super) struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    /// From the call that started it to its word that it is ready.
    pub(super) ready_after: Duration,
    page: &'static str,
}

/// Hugepages for all frames, where this user may have them; without, exod takes what there is.
pub(super) fn hugepages() -> Option<Lease> {
    Lease::take(FRAMES).ok()
}

impl Daemon {
    /// Starts one that keeps all its frames ready, and waits until it says that it is ready.
    pub(super) fn start(programs: &Programs) -> Result<Daemon> {
        let dir = tempfile::Builder::new().prefix("exobench-").tempdir()?;
        let config = format!(
            "workers = 2\n[pool]\nframes = {FRAMES}\nready = [{{ frames = 1, units = {FRAMES} }}]\n\
             [[rule]]\nuser = {}\nmax_frames = {FRAMES}\nmax_ports = 8\nadmin = true\n",
            Uid::effective()
        );
        fs::write(dir.path().join("exod.toml"), config)?;
        let notified = UnixDatagram::bind(dir.path().join("notify"))?;
        notified.set_read_timeout(Some(PATIENCE))?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(&programs.exod);
        command
            .arg("--config")
            .arg(dir.path().join("exod.toml"))
            .arg("--socket")
            .arg(dir.path().join("exod.sock"))
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("RUST_LOG", "warn")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let start = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", programs.exod.display()))?;
        let mut daemon = Daemon {
            child,
            dir,
            ready_after: Duration::ZERO,
            page: "",
        };
        daemon.hear_ready(&notified)?;
        daemon.ready_after = start.elapsed();
        daemon.page = daemon.connect()?.session().page_kind.name();
        Ok(daemon)
    }

    fn hear_ready(&mut self, notified: &UnixDatagram) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        // So short that an exod that dies, which says nothing, is noticed.
        notified.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut bytes = [0; 512];
        loop {
            if let Ok(len) = notified.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..len]);
                if text.lines().any(|line| line == "READY=1") {
                    return Ok(());
                }
            }
            interrupt::check()?;
            if self.child.try_wait()?.is_some() || Instant::now() > end {
                bail!("exod did not become ready: {}", self.log());
            }
        }
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// A new session.
    pub(super) fn connect(&self) -> Result<Client> {
        Ok(Client::connect(self.socket())?)
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("exod.sock")
    }

    /// Its process.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Waits until it has nothing to do; how long after it was ready that was.
    pub(super) fn settle(&self) -> Result<()> {
        let client = self.connect()?;
        let end = Instant::now() + PATIENCE;
        let mut quiet = 0;
        // Between two jobs there may be none for a moment.
        while quiet < 20 {
            let work = client.work()?;
            quiet = if work.jobs + work.closes + work.unbinding == 0 {
                quiet + 1
            } else {
                0
            };
            if Instant::now() > end {
                bail!(
                    "exod is still busy after {} s: {work:?}",
                    PATIENCE.as_secs()
                );
            }
            interrupt::sleep(LOOK)?;
        }
        Ok(())
    }

    /// What a reader must know of it.
    pub(super) fn details(&self) -> Map<String, Value> {
        let details = json!({
            "device": "none", "driver": "exod", "mode": "process", "page": self.page,
            "frames": FRAMES,
        });
        details.as_object().cloned().unwrap_or_default()
    }

    /// Stops it, as a service manager does.
    pub(super) fn stop(mut self) -> Result<()> {
        kill(self.pid(), Signal::SIGTERM)?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("exod ended badly ({status}): {}", self.log());
            }
            if Instant::now() > end {
                bail!("exod does not stop: {}", self.log());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail when it was stopped, which is what a good run does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
