//! A program that starts itself several times, once for each role.
//!
//! The first process asks exod for a session for each role, or embeds an exod where none listens.
//! A session travels as the child's standard input, which libexo finds by `EXO_SOCKET_FD`; so the
//! roles share nothing but what exod grants them.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use exod::Embedded;
use exod::config::Config;
use libexo::Client;
use signal_hook::consts::{SIGINT, SIGTERM};

/// The processes that this one started, and what they talk to.
pub struct Family {
    /// None where a daemon listens.
    exod: Option<Embedded>,
    children: Vec<(String, Child)>,
}

impl Family {
    /// Over the exod that the environment names, or else over an embedded one.
    pub fn new() -> Result<Family> {
        let exod = match Client::connect_default() {
            Ok(_) => None,
            Err(_) => {
                let exod = Embedded::start(Config::embedded()).context("cannot embed exod")?;
                println!(
                    "no exod listens: embedded one, on {} pages",
                    exod.offer().page_kind.name()
                );
                Some(exod)
            }
        };
        Ok(Family {
            exod,
            children: Vec::new(),
        })
    }

    /// Starts this program again with `args`.
    pub fn start(&mut self, name: &str, args: &[String]) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command.args(args);
        match &self.exod {
            Some(exod) => {
                let session = exod.connect().context("cannot make a session")?;
                command.env_remove("EXO_SOCKET").env("EXO_SOCKET_FD", "0");
                command.stdin(Stdio::from(session));
            }
            None => {
                command.stdin(Stdio::null());
            }
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// Waits until all have ended; an error when one of them failed.
    pub fn wait(mut self) -> Result<()> {
        let mut failed = Vec::new();
        for (name, mut child) in std::mem::take(&mut self.children) {
            let status = child.wait()?;
            if !status.success() {
                failed.push(format!("the {name} failed ({status})"));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{}", failed.join(", "))
    }
}

impl Drop for Family {
    /// Only where a start failed half-way: the others wait for it in vain.
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ctrl-C or SIGTERM, as a flag.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes the signals over; the second one ends the process at once.
    pub fn install() -> io::Result<Stop> {
        /// As a shell reports a process that SIGINT ended.
        const INTERRUPTED: i32 = 130;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, stop.clone())?;
            signal_hook::flag::register(signal, stop.clone())?;
        }
        Ok(Stop(stop))
    }

    /// Whether to stop.
    #[inline]
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
