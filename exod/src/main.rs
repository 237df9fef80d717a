//! The daemon's command line: read the configuration, listen, serve, reload, stop.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use exod::activation::{self, Inherited};
use exod::config::{CONFIG_PATH, Config, Loaded};
use exod::leftovers;
use exod::log;
use exod::manager::Manager;
use exod::pages;
use exod::server::{Listener, Server};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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

    /// Read the configuration, say what is wrong with it, print what holds in the end, and exit.
    #[arg(long)]
    check_config: bool,

    /// With --check-config: print it as JSON, with the files that it came from.
    #[arg(long, requires = "check_config")]
    json: bool,

    /// Put back what an exod that was killed had changed on this machine, and exit. systemd calls
    /// it when the service has ended; what was changed is recorded in $RUNTIME_DIRECTORY.
    #[arg(long)]
    put_back: bool,

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
  SIGHUP makes it read its configuration again; a file with a mistake is refused, and what runs
  goes on running.

Files:
  /etc/exo/exod.toml      the configuration (systemd/exod.toml in the source explains each key)
  /etc/exo/exod.d/*.toml  additions, read after it in the order of their names
  /run/exod/exod.sock     the socket: mode 0660, never world-writable

Exit codes:
  0  stopped by a signal, or the configuration is good
  1  failed while running, or could not start (memory, socket); the message says what to do
  2  wrong command line
  3  the configuration cannot be read or is wrong; the message names line and column";

/// The configuration is missing or wrong.
const EXIT_CONFIG: u8 = 3;

fn main() -> ExitCode {
    // Before anything else opens a descriptor.
    let inherited = activation::take();
    if let Some(done) = pages::asked(Options::command, 8) {
        return done;
    }
    let options = Options::parse();
    if options.put_back {
        return put_back(&options);
    }
    let loaded = match Config::load(&options.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("exod: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let outcome = if options.check_config {
        print_config(&loaded, options.json)
    } else {
        inherited
            .map_err(anyhow::Error::from)
            .and_then(|inherited| serve(&options, loaded.config, inherited))
    };
    finish(outcome)
}

fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn put_back(options: &Options) -> ExitCode {
    let put_back = || {
        log::start(&options.log, options.log_json)?;
        let records = leftovers::directory();
        leftovers::put_back(&records.context("no record: RUNTIME_DIRECTORY is not set")?);
        Ok(())
    };
    finish(put_back())
}

/// What holds in the end: the defaults, the file, and its additions.
fn print_config(loaded: &Loaded, json: bool) -> anyhow::Result<()> {
    let notes = loaded.config.notes();
    if json {
        let all = serde_json::json!({
            "files": loaded.files,
            "notes": notes,
            "config": loaded.config,
        });
        println!("{all}");
        return Ok(());
    }
    for file in &loaded.files {
        println!("# {}: good", file.display());
    }
    for note in notes {
        println!("# note: {note}");
    }
    print!("{}", toml::to_string(&loaded.config)?);
    Ok(())
}

fn serve(options: &Options, config: Config, inherited: Inherited) -> anyhow::Result<()> {
    log::start(&options.log, options.log_json)?;
    // First the signals, so that none finds exod half-started and leaves its socket behind.
    let stop = signal_pipe(&[SIGTERM, SIGINT]).context("cannot watch for signals")?;
    let reload = signal_pipe(&[SIGHUP]).context("cannot watch for SIGHUP")?;
    raise_descriptors();
    for (name, _closed) in inherited.kept {
        tracing::warn!(
            "closed {name:?}, a descriptor kept by the service manager that exod does not know"
        );
    }
    let listener = match inherited.socket {
        Some(socket) => Listener::inherited(socket)?,
        None => {
            let path = options.socket.as_ref().or(config.socket.as_ref());
            let path =
                path.context("no socket: set `socket` in the configuration, or use --socket")?;
            Listener::open(path, config.group.map(|group| group.0))?
        }
    };
    let socket = listener.path().to_owned();
    let records = leftovers::directory();
    if let Some(records) = &records {
        leftovers::put_back(records);
    }
    for note in config.notes() {
        tracing::warn!("configuration: {note}");
    }
    let cgroups = records.as_ref().map(|dir| dir.join(leftovers::CGROUPS));
    let mut server = Server::new(&config, records)?;
    server.listen(listener)?;
    server.stop_on(stop)?;
    server.reload_on(reload, options.config.clone())?;
    server.reserve(cgroups);
    server.report_to(Manager::from_environment());
    if config.policy.rules.is_empty() {
        tracing::warn!("the configuration has no [[rule]]: everybody is refused");
    }
    let offer = server.offer();
    tracing::info!(
        socket = %socket.display(),
        pages = offer.page_kind.name(),
        protection = ?offer.protection,
        "ready at {}",
        socket.display()
    );
    let outcome = server.serve();
    server.stop();
    tracing::info!("stopped");
    outcome.context("the server's loop failed")
}

/// A pipe that becomes readable when one of these signals comes.
fn signal_pipe(signals: &[i32]) -> anyhow::Result<std::os::fd::OwnedFd> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
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
