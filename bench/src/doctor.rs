//! `netbench doctor`: what this machine has, what is missing for which rows, and how to get it.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use nix::unistd::Uid;

use crate::host::{Host, Watch, allowed_cores};
use crate::interrupt;
use crate::row::Row;
use crate::table::{Ink, paint};
use crate::{clock, hugepages};

/// How long the machine's noise is watched.
const LISTEN: Duration = Duration::from_secs(1);
/// Hugepages with which every row runs on its best pages: two testpmd of 256 MiB, and our own.
const HUGEPAGES_WANTED: u64 = 300;
/// What DPDK is called in Debian and its children.
const INSTALL_DPDK: &str = "apt-get install dpdk dpdk-dev libdpdk-dev";

fn line(good: bool, what: &str, found: &str, fix: &str) {
    let sign = if good {
        paint(Ink::Green, "ok  ")
    } else {
        paint(Ink::Yellow, "look")
    };
    println!("{sign} {what:<12} {found}");
    if !good {
        println!("                  {fix}");
    }
}

/// The first line that a program prints, when it is there and succeeds.
fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn in_path(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    found.map(|file| file.display().to_string())
}

/// Debian's DPDK is built for any x86-64; one for this machine is faster in some rows.
fn own_build() {
    let named = std::env::var_os("NETBENCH_TESTPMD");
    let there = named.as_ref().is_some_and(|path| Path::new(path).is_file());
    let found = match &named {
        Some(path) if there => format!("NETBENCH_TESTPMD: {}", path.display()),
        Some(path) => format!("NETBENCH_TESTPMD: {} is no file", path.display()),
        None => "NETBENCH_TESTPMD is not set".to_owned(),
    };
    let fix =
        "set it to a testpmd that was built with -march=native: its rows come beside the others";
    line(there, "own testpmd", &found, fix);
}

/// Looks at everything that changes a figure, and prints it.
pub fn run(host: &Host, rows: &[Box<dyn Row>]) -> Result<()> {
    let cores = allowed_cores()?;
    println!(
        "     cpu          {}, {:.2} GHz timestamp counter",
        host.cpu,
        1.0 / clock::ns_per_cycle()
    );
    println!(
        "     kernel       {}, mitigations on: {}",
        host.kernel, host.mitigations
    );
    let [sender, receiver] = host.cores;
    let chosen = format!(
        "{} allowed; sender on {sender}, receiver on {receiver}",
        cores.len()
    );
    line(
        cores.len() > 2,
        "cores",
        &chosen,
        "no core is left for everything else: stop what you can",
    );
    let root = Uid::effective().is_root();
    let priority =
        "without root: no AF_PACKET, no DPDK, smaller socket buffers, no scheduling preference";
    line(
        root,
        "privileges",
        if root { "root" } else { "an ordinary user" },
        priority,
    );
    let free = hugepages::pool().map_or(0, |(_, free)| free);
    let fix = format!(
        "netbench borrows pages for its peers as root; to keep some: sysctl vm.nr_hugepages={HUGEPAGES_WANTED}"
    );
    line(free >= HUGEPAGES_WANTED, "pages", &host.pages, &fix);
    let testpmd = in_path("dpdk-testpmd");
    let library = answer("pkg-config", &["--modversion", "libdpdk"]);
    let missing = "missing".to_owned();
    let fix = format!("{INSTALL_DPDK}, or set NETBENCH_TESTPMD to the path of a testpmd");
    line(
        testpmd.is_some(),
        "testpmd",
        testpmd.as_ref().unwrap_or(&missing),
        &fix,
    );
    own_build();
    let fix = format!("{INSTALL_DPDK}; netbench compiles its peer when that is first needed");
    line(
        library.is_some(),
        "libdpdk",
        library.as_ref().unwrap_or(&missing),
        &fix,
    );
    let watch = Watch::start();
    interrupt::sleep(LISTEN)?;
    let noise = watch.stop();
    let found = format!(
        "steal {:.1} %, tasks waiting for a core {:.0} % of one second",
        noise.steal_percent, noise.waiting_percent
    );
    let warning = noise.warning();
    line(
        warning.is_none(),
        "noise",
        &found,
        warning.as_deref().unwrap_or_default(),
    );
    for row in rows {
        if let Some(reason) = row.unavailable() {
            line(false, row.name(), "cannot run", &reason);
        }
    }
    Ok(())
}
