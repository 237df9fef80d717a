//! The service manager: what it is told, and how it notices that the loop hangs.
//!
//! systemd reads READY, RELOADING, STOPPING and a line of STATUS from a socket that it names in the
//! environment; without one, all of this does nothing. When it also names a watchdog's time, the
//! server's loop itself pings it at half of that: a thread of its own would go on pinging while the
//! loop hangs. Without a watchdog there is no ping and so no wake-up.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Shortest pause between pings, however short the watchdog's time is: the loop has other work.
const PING_MIN: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub struct Manager {
    watchdog: Option<Watchdog>,
    status: String,
}

#[derive(Debug)]
struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Manager {
    /// As the environment says.
    pub fn from_environment() -> Manager {
        let watchdog = sd_notify::watchdog_enabled().filter(|time| !time.is_zero());
        Manager {
            watchdog: watchdog.map(|time| Watchdog {
                every: (time / 2).max(PING_MIN),
                next: Instant::now(),
            }),
            status: String::new(),
        }
    }

    /// Clients are served from here on; also the end of a reload.
    pub fn ready(&mut self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(&one_line(&status))]);
        self.status = status;
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// exod ends.
    pub fn stopping(&self) {
        tell(&[
            NotifyState::Stopping,
            NotifyState::Status("Taking back what was granted"),
        ]);
    }

    /// How it is, in a line. Said once.
    pub fn status(&mut self, status: String) {
        if status != self.status {
            tell(&[NotifyState::Status(&one_line(&status))]);
            self.status = status;
        }
    }

    /// When the loop must be back for the next ping.
    pub fn next_ping(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|w| w.next)
    }

    /// The loop turns. Called by nobody else. True when it was time for a ping.
    pub fn turn(&mut self, now: Instant) -> bool {
        let Some(watchdog) = self.watchdog.as_mut().filter(|w| w.next <= now) else {
            return false;
        };
        watchdog.next = now + watchdog.every;
        tell(&[NotifyState::Watchdog]);
        true
    }
}

/// A line break would begin another variable of the protocol.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
