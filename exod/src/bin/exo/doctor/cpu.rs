//! Cores: which are kept for whom, how fast they may go, and what slows them.

#![forbid(unsafe_code)]

use super::Finding;
use super::read::{exists, names, number, text};

const PART: &str = "cores";

const CPU: &str = "/sys/devices/system/cpu";

pub fn look() -> Vec<Finding> {
    let mut findings = vec![cores(), isolated()];
    findings.extend([governor(), idle(), mitigations(), numa()]);
    findings
}

fn cores() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let online = text(format!("{CPU}/online")).unwrap_or_else(|| "?".to_owned());
    let smt = match text(format!("{CPU}/smt/active")).as_deref() {
        Some("1") => ", two threads each",
        _ => "",
    };
    let found = format!("{count} for this process, {online} online{smt}");
    Finding::told(PART, "cores", found).should(
        count >= 2,
        "both sides of a port poll: with one core they take turns, which is slow",
    )
}

/// Nobody needs isolated cores to begin; a benchmark does.
fn isolated() -> Finding {
    let set = |name: &str| text(format!("{CPU}/{name}")).filter(|set| !set.is_empty());
    let say = |set: Option<String>| set.unwrap_or_else(|| "none".to_owned());
    let found = format!(
        "{}; without ticks {}",
        say(set("isolated")),
        say(set("nohz_full"))
    );
    Finding::told(PART, "isolated", found)
}

fn governor() -> Finding {
    let policies = names(format!("{CPU}/cpufreq"));
    let mut governors: Vec<String> = policies
        .iter()
        .filter_map(|policy| text(format!("{CPU}/cpufreq/{policy}/scaling_governor")))
        .collect();
    governors.sort_unstable();
    governors.dedup();
    if governors.is_empty() {
        return Finding::told(PART, "frequency", "not for this system to choose");
    }
    let fast = governors == ["performance"];
    Finding::told(PART, "frequency", governors.join(", ")).should(
        fast,
        format!(
            "for steady latencies: echo performance | tee {CPU}/cpufreq/policy*/scaling_governor"
        ),
    )
}

fn idle() -> Finding {
    let driver = text(format!("{CPU}/cpuidle/current_driver")).unwrap_or_else(|| "none".to_owned());
    let governor = text(format!("{CPU}/cpuidle/current_governor"));
    let found = match governor {
        Some(governor) => format!("{driver}, {governor}"),
        None => driver,
    };
    Finding::told(PART, "idle", found)
}

fn mitigations() -> Finding {
    let dir = format!("{CPU}/vulnerabilities");
    let states: Vec<String> = names(&dir)
        .iter()
        .filter_map(|name| text(format!("{dir}/{name}")))
        .collect();
    let count = |word: &str| {
        states
            .iter()
            .filter(|state| state.starts_with(word))
            .count()
    };
    let off = text("/proc/cmdline")
        .is_some_and(|line| line.split(' ').any(|word| word == "mitigations=off"));
    let found = format!(
        "{} mitigated, {} not affected, {} vulnerable{}",
        count("Mitigation"),
        count("Not affected"),
        count("Vulnerable"),
        if off { " (mitigations=off)" } else { "" }
    );
    Finding::told(PART, "mitigations", found)
}

fn numa() -> Finding {
    let nodes = names("/sys/devices/system/node");
    let nodes = nodes.iter().filter(|name| {
        name.strip_prefix("node")
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    let balancing = number("/proc/sys/kernel/numa_balancing").is_some_and(|on| on > 0);
    let balancing = if balancing {
        ", balanced by the kernel"
    } else {
        ""
    };
    let virtual_machine = exists("/sys/hypervisor/type")
        || text("/proc/cpuinfo").is_some_and(|text| {
            text.lines()
                .any(|line| line.starts_with("flags") && line.contains(" hypervisor"))
        });
    let host = if virtual_machine {
        "; a virtual machine"
    } else {
        ""
    };
    let found = format!("{} node(s){balancing}{host}", nodes.count().max(1));
    Finding::told(PART, "NUMA", found)
}
