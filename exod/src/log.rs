//! Where log lines go: to journald with their fields when systemd reads them, else to stderr.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::fs::fstat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged when nothing else is said: the audit lines and what goes wrong.
pub const FILTER: &str = "info";

/// Starts logging. `filter` is in the syntax of `RUST_LOG`; `json` makes each line on stderr an
/// object.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| anyhow::anyhow!("--log or RUST_LOG {filter:?}: {e}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    if stderr_is_the_journal() {
        registry.with(tracing_journald::layer()?).try_init()?;
    } else if json {
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
        registry.with(lines.with_writer(io::stderr)).try_init()?;
    } else {
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        registry.with(lines).try_init()?;
    }
    Ok(())
}

/// systemd says in `JOURNAL_STREAM` which file its journal is; a redirected stderr is another.
fn stderr_is_the_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stderr = fstat(io::stderr().as_fd());
    stderr.is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
