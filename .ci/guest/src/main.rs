//! `cargo guest`: real kernels and a real systemd for tests that this machine cannot run itself.
//!
//! A run fetches QEMU and Debian's kernels by name, builds images of them, builds the project, and
//! boots one guest after another under emulation. In each, the same program runs as the agent,
//! carries out scripts of `tests/`, and reports.
//!
//! Who owns what: [`cache`] everything fetched, [`tree`] the file systems that guests are given,
//! [`boot`] a guest's life. Nothing is installed on the machine, nothing of it is changed, and no
//! step needs root.
//!
//! Not promised: speed. Emulated code runs ten to fifty times slower than the machine's own, so
//! figures measured in a guest mean nothing.

#![forbid(unsafe_code)]

mod agent;
mod apt;
mod boot;
mod cache;
mod image;
mod kernel;
mod patience;
mod payload;
mod plan;
mod qemu;
mod report;
mod stop;
mod test;
mod tree;

use std::env;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use rustix::termios::tcgetwinsize;

use boot::{Parts, Run};
use cache::Cache;
use payload::{Programs, version_of};
use report::Report;
use stop::Stop;
use test::{Boot, KERNELS, Machine, Root, Test};

/// Something other than a test failed: the network, a build, QEMU.
const EXIT_BROKEN: u8 = 3;
/// This machine cannot have guests.
const EXIT_SKIPPED: u8 = 77;
const EXIT_STOPPED: u8 = 130;
/// Where guests' logs and files go, in cargo's target directory.
const RESULTS: &str = "target/guest";

/// Runs the project's tests that need a kernel, a systemd or a root that this machine has not.
///
/// Boots Debian kernels in QEMU (emulated, so anywhere, and without root), gives them the project's
/// release binaries, and runs the scripts of .ci/guest/tests in them. The first run fetches about
/// 260 MB from the Debian mirror into a cache; nothing is installed.
#[derive(Parser)]
#[command(name = "cargo guest", bin_name = "cargo guest", after_long_help = AFTER_HELP)]
struct Options {
    /// Tests to run: those whose name contains one of these. All, if there are none.
    names: Vec<String>,

    /// Run on this kernel only.
    #[arg(long, value_name = "VERSION", value_parser = KERNELS.map(|(version, _)| version))]
    kernel: Option<String>,

    /// Open a shell in a guest instead of running tests. With NAMES, the guest is the one that the
    /// first of these tests would have, with its files.
    #[arg(long, conflicts_with_all = ["run", "json"])]
    shell: bool,

    /// Run one shell command in a guest and show what it prints.
    #[arg(long, value_name = "COMMAND", conflicts_with = "names")]
    run: Option<String>,

    /// The user space for --run, and for --shell without a test.
    #[arg(long, value_name = "ROOT", default_value = "systemd")]
    root: Root,

    /// List tests, and what each one shows.
    #[arg(long)]
    list: bool,

    /// Print one JSON object for each test, and one for the sum.
    #[arg(long)]
    json: bool,

    /// Show what tests print, also when they pass.
    #[arg(long, short)]
    verbose: bool,

    /// Kill each test after so many seconds, whatever it says itself.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: Option<u64>,

    /// Keep each guest's initrd, console log and command line, and say where.
    #[arg(long)]
    keep: bool,

    /// Use debug builds, which are ready sooner and run slower.
    #[arg(long)]
    debug: bool,

    /// Fetch the newest packages now, not only once a week.
    #[arg(long)]
    update: bool,

    /// Be the agent in a guest.
    #[arg(long, hide = true)]
    agent: bool,
}

const AFTER_HELP: &str = "\
Examples:
  cargo guest                                  every test, on both kernels
  cargo guest systemd --kernel 6.12            tests with systemd in their name, on one
  cargo guest --run 'systemctl status; uname -r'
  cargo guest --shell                          look around in a Debian with systemd
  cargo guest --shell NAME                     ... in the guest of a test; /guest/tests has it

A test is a script in .ci/guest/tests. Its first comments say what it needs:
  # guest: systemd kernels=6.1,6.12 cpus=2 memory_mib=1280 hugepages=128 timeout_s=60 alone
  # files: systemd docs/*.md                   files of the project, found in $GUEST_FILES
  # tests: exod:frames                         test binaries, run as exod-frames
  # host: cargo build --example x              a command to run here before
  # What holds when this passes.
Its exit status is the verdict; 77 means that it cannot run there, and its last line says why. It
runs as root, with the project's programs in PATH, and what it puts into $GUEST_OUT comes back.

Files:
  target/guest/KERNEL/TEST/    output.log, console.log, and what the test put into $GUEST_OUT
  ~/.cache/exo-guest           everything fetched; delete it at any time

Environment:
  EXO_GUEST_CACHE     another place for the cache (else XDG_CACHE_HOME/exo-guest)
  EXO_GUEST_MIRROR    http://HOST with /debian and /debian-security (else this machine's mirror)

Exit codes:
  0    nothing failed; with --shell, the shell's own
  1    a test failed
  2    wrong command line
  3    no guest: the network, a build or QEMU failed
  77   this machine cannot have guests, and why
  130  stopped by Ctrl-C";

fn main() -> ExitCode {
    let options = Options::parse();
    if options.agent {
        if let Err(error) = agent::run() {
            println!("guest: {error:#}");
        }
        return ExitCode::FAILURE;
    }
    let stop = Stop::default();
    let ran = stop.install().and_then(|()| run(&options, &stop));
    match ran {
        Ok(code) => ExitCode::from(code),
        // Also when the error is that of apt or cargo, which the same Ctrl-C has stopped.
        Err(_) if stop.is_set() => ExitCode::from(EXIT_STOPPED),
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::from(EXIT_BROKEN)
        }
    }
}

fn run(options: &Options, stop: &Stop) -> anyhow::Result<u8> {
    let project = project()?;
    let tests = choose(options, &project)?;
    if options.list {
        list(&tests);
        return Ok(0);
    }
    ensure!(
        !options.shell || std::io::stdin().is_terminal(),
        "--shell needs a terminal; --run COMMAND does without"
    );
    if let Some(reason) = apt::missing() {
        println!("skipped: {reason}");
        return Ok(EXIT_SKIPPED);
    }
    let boots = match options.shell {
        true => vec![shell_boot(options, &tests)],
        false => test::boots(&tests, &kernels(options)),
    };
    let wanted: Vec<Test> = boots.iter().flat_map(|boot| boot.tests.clone()).collect();
    // What is being done goes to stderr, what came of it to stdout.
    let say = |words: &str| eprintln!("guest: {words}");
    let cache = Cache::open()?;
    let machines = prepare(&cache, stop, &boots, options.update, &say)?;
    say("building the project");
    prepare_on_host(&project, &wanted)?;
    let programs = Programs::build(&project, &wanted, options.debug)?;
    let libc = machines.libc;
    let (major, minor) = programs.needs_libc()?;
    let has_systemd = boots.iter().any(|boot| boot.machine.root == Root::Systemd);
    ensure!(
        !has_systemd || (major, minor) <= libc,
        "programs built here need glibc {major}.{minor}, and guests with systemd have {}.{}: build \
         on Debian 12, or run lean tests only",
        libc.0,
        libc.1
    );
    let runner = Run {
        cache: &cache,
        programs: &programs,
        results: &project.join(RESULTS),
        stop,
        keep: options.keep,
        say: &say,
    };
    if options.shell {
        return runner.shell(&machines.parts[0], &boots[0], terminal());
    }
    let mut report = Report::new(options.json, options.verbose || options.run.is_some());
    for (boot, parts) in boots.iter().zip(&machines.parts) {
        runner.tests(parts, boot, &mut |outcome| report.tell(outcome))?;
    }
    Ok(if report.finish() { 0 } else { 1 })
}

/// The root of the project that this program was built from.
fn project() -> anyhow::Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = package.ancestors().nth(2);
    let project = project.context("the package lies elsewhere")?;
    ensure!(
        project.join(".ci/guest").is_dir(),
        "{} is gone: build this program again where the project is now",
        project.display()
    );
    Ok(project.to_owned())
}

fn kernels(options: &Options) -> Vec<String> {
    let all = KERNELS.map(|(version, _)| version.to_owned());
    match (&options.kernel, &options.run) {
        (Some(kernel), _) => vec![kernel.clone()],
        // One answer is enough for a question.
        (None, Some(_)) => all.last().cloned().into_iter().collect(),
        (None, None) => all.to_vec(),
    }
}

/// The tests that the command line names.
fn choose(options: &Options, project: &Path) -> anyhow::Result<Vec<Test>> {
    if let Some(command) = &options.run {
        let script = format!("#!/bin/sh\n{command}\n");
        let mut test = Test::command("command", options.root, &script);
        if project.join("systemd").is_dir() {
            test.files = vec!["systemd".to_owned()];
        }
        test.timeout_s = options.timeout_s.unwrap_or(test.timeout_s);
        return Ok(vec![test]);
    }
    let mut tests = test::read_all(&project.join(".ci/guest/tests"))?;
    let named = |test: &Test| options.names.iter().any(|name| test.name.contains(name));
    tests.retain(|test| options.names.is_empty() || named(test));
    if let Some(kernel) = &options.kernel {
        tests.retain(|test| test.kernels.contains(kernel));
    }
    for test in &mut tests {
        test.timeout_s = options.timeout_s.unwrap_or(test.timeout_s);
    }
    if tests.is_empty() {
        bail!("no such test; --list shows those that are there");
    }
    Ok(tests)
}

fn list(tests: &[Test]) {
    for test in tests {
        let root = match test.machine.root {
            Root::Lean => "lean",
            Root::Systemd => "systemd",
        };
        println!(
            "{:<24} {root:<8} {:<9} {}",
            test.name,
            test.kernels.join(","),
            test.about
        );
    }
}

/// The guest of a shell: that of the first named test, else a usual one with all unit files.
fn shell_boot(options: &Options, tests: &[Test]) -> Boot {
    let newest = || {
        KERNELS
            .map(|(version, _)| version.to_owned())
            .into_iter()
            .next_back()
    };
    let kernel = options.kernel.clone().or_else(newest).unwrap_or_default();
    let first = tests.first().filter(|_| !options.names.is_empty());
    let machine = first.map_or(Machine::usual(options.root), |test| test.machine);
    let same = |test: &&Test| test.machine == machine && !options.names.is_empty();
    Boot {
        kernel,
        machine,
        tests: tests.iter().filter(same).cloned().collect(),
    }
}

/// What every boot starts from.
struct Machines {
    /// One for each boot.
    parts: Vec<Parts>,
    /// The C library of the systemd root.
    libc: (u32, u32),
}

fn prepare(
    cache: &Cache,
    stop: &Stop,
    boots: &[Boot],
    update: bool,
    say: &dyn Fn(&str),
) -> anyhow::Result<Machines> {
    let waiting = || say("waiting for another run to fetch packages");
    let _lock = cache.lock("cache.lock", stop, waiting)?;
    let packages = apt::Packages::fetch(cache, update, say)?;
    let qemu = qemu::Qemu::prepare(cache, &packages)?;
    let busybox = image::busybox(cache, &packages)?;
    let mut parts = Vec::new();
    for boot in boots {
        let mut kernels = packages.kernels.iter();
        let package = kernels.find(|(version, _)| *version == boot.kernel);
        let (_, package) = package.context("a kernel that was not fetched")?;
        parts.push(Parts {
            kernel: kernel::Kernel::prepare(cache, package, &qemu)?,
            root: image::prepare(cache, &packages, boot.machine.root, &busybox)?,
            qemu: qemu.clone(),
        });
    }
    let libc = packages.systemd_package("libc6")?;
    let libc = version_of(libc.trim_start_matches("libc6_"));
    Ok(Machines { parts, libc })
}

/// Runs what tests want to have run here.
fn prepare_on_host(project: &Path, tests: &[Test]) -> anyhow::Result<()> {
    let mut commands: Vec<&str> = tests.iter().filter_map(|t| t.host.as_deref()).collect();
    commands.sort_unstable();
    commands.dedup();
    for command in commands {
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-ec", command]).current_dir(project);
        apt::output(shell).with_context(|| format!("`{command}`, which a test wants"))?;
    }
    Ok(())
}

fn terminal() -> plan::Terminal {
    let stdout = std::io::stdout();
    let size = tcgetwinsize(&stdout).ok().filter(|_| stdout.is_terminal());
    plan::Terminal {
        kind: env::var("TERM").unwrap_or_else(|_| "vt100".to_owned()),
        columns: size.map_or(0, |size| size.ws_col),
        rows: size.map_or(0, |size| size.ws_row),
    }
}
