//! The daemon's command line: read the configuration, listen, serve, stop.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use exod::config::{CONFIG_PATH, Config};
use exod::log;
use exod::server::{Listener, Server};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Owns raw resources of this machine (frames of memory, ports), hands them out to applications as
/// capabilities, and takes them back.
///
/// Applications need no privilege: they connect to exod's socket, and the configuration says who
/// may hold what. Whoever no rule names is refused, so exod without a configuration serves nobody.
#[derive(Parser)]
#[command(version, after_long_help = AFTER_HELP)]
struct Options {
    /// The configuration, a TOML file.
    #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
    config: PathBuf,

    /// The socket to listen at, whatever the configuration says.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Read the configuration, say what is wrong with it, and exit.
    #[arg(long)]
    check_config: bool,

    /// What to log: `warn`, `info`, `exod=debug`, `exod::audit=off,info`, ...
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = log::FILTER)]
    log: String,

    /// Log a JSON object per line; to the journal, fields go as they are.
    #[arg(long)]
    log_json: bool,
}

const AFTER_HELP: &str = "\
First steps:
  A configuration that lets your own user try everything:
      printf '[[rule]]\\nuser = %s\\nmax_frames = 32\\nmax_ports = 16\\ncreate = [\"*\"]\\njoin = [\"*\"]\\n' $(id -u) > exod.toml
  Check it, then serve:
      exod --config exod.toml --check-config
      exod --config exod.toml --socket ./exod.sock
  It runs in the foreground and needs no privilege; as root it also gets hugepages of its own
  that no holder can shrink, and serves users who must not trust each other.
  Stop it with Ctrl-C or SIGTERM: it takes everything back and leaves nothing behind.

Files:
  /etc/exo/exod.toml      the configuration (systemd/exod.toml in the source explains each key)
  /run/exod/exod.sock     the socket: mode 0660, never world-writable

Exit codes:
  0  stopped by a signal, or the configuration is good
  1  failed while running, or could not start (memory, socket); the message says what to do
  2  wrong command line
  3  the configuration cannot be read or is wrong; the message names line and column";

/// The configuration is missing or wrong.
const EXIT_CONFIG: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    let config = match Config::load(&options.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("exod: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if options.check_config {
        println!("{}: good", options.config.display());
        return ExitCode::SUCCESS;
    }
    match serve(&options, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options, config: Config) -> anyhow::Result<()> {
    log::start(&options.log, options.log_json)?;
    // First the signals, so that none finds exod half-started and leaves its socket behind.
    let stop = stop_pipe().context("cannot watch for signals")?;
    raise_descriptors();
    let path = options.socket.as_ref().or(config.socket.as_ref());
    let path = path.context("no socket: set `socket` in the configuration, or use --socket")?;
    let listener = Listener::open(path, config.group.map(|group| group.0))?;
    let mut server = Server::new(&config)?;
    server.listen(listener)?;
    server.stop_on(stop)?;
    if config.policy.rules.is_empty() {
        tracing::warn!("the configuration has no [[rule]]: everybody is refused");
    }
    let offer = server.offer();
    tracing::info!(
        socket = %path.display(),
        pages = offer.page_kind.name(),
        protection = ?offer.protection,
        "ready"
    );
    notify(NotifyState::Ready);
    let outcome = server.serve();
    notify(NotifyState::Stopping);
    server.stop();
    tracing::info!("stopped");
    outcome.context("the server's loop failed")
}

/// A pipe that becomes readable when exod is to stop.
fn stop_pipe() -> anyhow::Result<std::os::fd::OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Units and sessions cost descriptors: takes as many as the system allows.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::warn!(%error, "cannot raise the limit of descriptors");
    }
}

/// systemd may not be there; then this does nothing.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
