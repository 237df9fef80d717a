//! Ctrl-C: noticed between two steps of whatever goes on, so that scratch files and QEMU go.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the user wants to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The user wants to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

impl Stop {
    /// From now on, signals that would end this process are noticed instead.
    pub fn install(&self) -> anyhow::Result<()> {
        for signal in signal_hook::consts::TERM_SIGNALS {
            signal_hook::flag::register(*signal, Arc::clone(&self.0))?;
        }
        Ok(())
    }

    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails when a signal came.
    pub fn check(&self) -> Result<(), Stopped> {
        match self.is_set() {
            true => Err(Stopped),
            false => Ok(()),
        }
    }
}
