//! The kernel: its version, what came with which, and what is there and allowed.

#![forbid(unsafe_code)]

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::system::uname;

use super::Finding;
use super::read::{chosen, exists, names, number, text};

const PART: &str = "kernel";

/// The oldest Linux that exo promises anything on.
const FLOOR: (u32, u32) = (6, 1);

/// What came with which version, and what it is to exo.
const FEATURES: [((u32, u32), &str); 10] = [
    (
        (6, 2),
        "Landlock takes truncation from descriptors: units on private mounts",
    ),
    ((6, 5), "SO_PEERPIDFD: a client's identity without a race"),
    (
        (6, 6),
        "io_uring can be switched off by sysctl; AF_XDP packets of several buffers",
    ),
    (
        (6, 7),
        "cpuset partitions away from the root; netkit; Landlock for TCP ports",
    ),
    ((6, 8), "AF_XDP metadata on transmission"),
    ((6, 9), "FUSE passthrough; pidfds of threads"),
    ((6, 10), "Landlock for device ioctls"),
    (
        (6, 12),
        "Landlock for signals and abstract sockets; scheduling by BPF",
    ),
    (
        (6, 13),
        "process_madvise on oneself: containment must know it",
    ),
    ((6, 15), "io_uring receives without copying"),
];

pub fn look() -> Vec<Finding> {
    let release = uname().release().to_string_lossy().into_owned();
    let version = version_of(&release);
    let mut findings = vec![
        Finding::told(PART, "version", release.as_str()).must(
            version.is_some_and(|version| version >= FLOOR),
            "exo is promised on Linux 6.1 and later: on Debian 12 `apt-get install linux-image-amd64`",
        ),
        Finding::told(PART, "processor", std::env::consts::ARCH).should(
            cfg!(target_arch = "x86_64"),
            "measured and tested on x86-64 alone",
        ),
    ];
    findings.push(features(version));
    findings.extend([landlock_abi(), io_uring(), xdp(), btf(), userfaultfd()]);
    findings.extend(devices());
    findings.extend(cgroups());
    findings
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn features(version: Option<(u32, u32)>) -> Finding {
    let lacking = FEATURES
        .iter()
        .filter(|(since, _)| version.is_none_or(|have| have < *since));
    let lacking: Vec<String> = lacking
        .map(|((major, minor), what)| format!("{major}.{minor}: {what}"))
        .collect();
    if lacking.is_empty() {
        let (major, minor) = FEATURES[FEATURES.len() - 1].0;
        return Finding::good(
            PART,
            "features",
            format!("everything up to Linux {major}.{minor}"),
        );
    }
    let found = format!("a newer kernel would bring {}", lacking.join("; "));
    Finding::told(PART, "features", found)
}

/// The newest Landlock that the kernel accepts rules of.
fn landlock_abi() -> Finding {
    const ABIS: [ABI; 5] = [ABI::V5, ABI::V4, ABI::V3, ABI::V2, ABI::V1];
    let accepts = |abi: &ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let ruleset = ruleset.handle_access(AccessFs::from_all(*abi));
        ruleset.and_then(|ruleset| ruleset.create()).is_ok()
    };
    let best = ABIS.iter().position(accepts).map(|at| ABIS.len() - at);
    let found = match best {
        Some(best) if best == ABIS.len() => format!("ABI {best} or newer"),
        Some(best) => format!("ABI {best}"),
        None => "none".to_owned(),
    };
    Finding::told(PART, "Landlock", found).should(
        best.is_some_and(|best| best >= 3),
        "private mounts need ABI 3 (Linux 6.2) with `landlock` among the `lsm=` of the kernel's command line",
    )
}

fn io_uring() -> Finding {
    let found = match number("/proc/sys/kernel/io_uring_disabled") {
        Some(0) => Finding::told(PART, "io_uring", "allowed to everybody"),
        Some(1) => Finding::told(PART, "io_uring", "allowed to a group and CAP_SYS_ADMIN"),
        Some(_) => Finding::told(PART, "io_uring", "switched off"),
        None => Finding::told(
            PART,
            "io_uring",
            "no switch: always allowed where it is built in",
        ),
    };
    let off = number("/proc/sys/kernel/io_uring_disabled").is_some_and(|value| value > 0);
    found.should(
        !off,
        "only netbench's row `io-uring` uses it: sysctl kernel.io_uring_disabled=0",
    )
}

fn xdp() -> Finding {
    let family = AddressFamily::XDP;
    let found = match socket(family, SocketType::RAW, None) {
        Ok(_) => "AF_XDP, and this user may use it",
        Err(Errno::PERM | Errno::ACCESS) => "AF_XDP; needs CAP_NET_RAW, which exod has as root",
        Err(_) => "no AF_XDP in this kernel",
    };
    Finding::told(PART, "XDP", found)
}

fn btf() -> Finding {
    let found = if exists("/sys/kernel/btf/vmlinux") {
        "there"
    } else {
        "none: CONFIG_DEBUG_INFO_BTF is off"
    };
    let unprivileged = match number("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Some(0) => ", BPF allowed to everybody",
        Some(_) => ", BPF for CAP_BPF alone",
        None => "",
    };
    Finding::told(PART, "BTF", format!("{found}{unprivileged}"))
}

fn userfaultfd() -> Finding {
    let found = match number("/proc/sys/vm/unprivileged_userfaultfd") {
        Some(0) => "faults of user mode to everybody, of the kernel to CAP_SYS_PTRACE",
        Some(_) => "everybody, all faults",
        None => "none in this kernel",
    };
    Finding::told(PART, "userfaultfd", found)
}

fn devices() -> Vec<Finding> {
    let groups = names("/sys/kernel/iommu_groups").len();
    let iommu = match groups {
        0 => "none: devices can write anywhere, so they cannot be handed out".to_owned(),
        groups => format!("{groups} groups"),
    };
    let paths = ["/dev/vfio/vfio", "/dev/iommu"];
    let vfio: Vec<&str> = paths.into_iter().filter(|path| exists(path)).collect();
    let vfio = if vfio.is_empty() {
        "none: modprobe vfio-pci, where the kernel has it".to_owned()
    } else {
        vfio.join(", ")
    };
    vec![
        Finding::told(PART, "IOMMU", iommu),
        Finding::told(PART, "VFIO", vfio),
    ]
}

/// Which hierarchy, and which controllers there.
fn cgroups() -> Vec<Finding> {
    const ROOT: &str = "/sys/fs/cgroup";
    let unified = text(format!("{ROOT}/cgroup.controllers"));
    let hybrid = text(format!("{ROOT}/unified/cgroup.controllers"));
    let (layout, controllers) = match (&unified, &hybrid) {
        (Some(controllers), _) => ("v2", controllers.as_str()),
        (None, Some(controllers)) => ("v1, with v2 beside it", controllers.as_str()),
        (None, None) if exists(format!("{ROOT}/memory")) => ("v1", ""),
        (None, None) => ("none mounted", ""),
    };
    let has = |name: &str| controllers.split(' ').any(|one| one == name);
    let wanted = ["cpuset", "cpu", "memory", "hugetlb", "pids"];
    let lacking: Vec<&str> = wanted.into_iter().filter(|name| !has(name)).collect();
    let layout = Finding::told(PART, "cgroups", layout).should(
        unified.is_some(),
        "containment and reserved cores need cgroup v2: boot with systemd.unified_cgroup_hierarchy=1",
    );
    let found = if controllers.is_empty() {
        "none".to_owned()
    } else {
        controllers.to_owned()
    };
    let fix = format!(
        "not in v2: {}: boot with cgroup_no_v1=all",
        lacking.join(", ")
    );
    let lsm = text("/sys/kernel/security/lsm").unwrap_or_else(|| "not to be seen here".to_owned());
    let lockdown = chosen("/sys/kernel/security/lockdown").unwrap_or_else(|| "none".to_owned());
    vec![
        layout,
        Finding::told(PART, "controllers", found).should(lacking.is_empty(), fix),
        Finding::told(
            PART,
            "security",
            format!("modules {lsm}; lockdown {lockdown}"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_write_them() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("6.12", Some((6, 12))),
            ("5.15.0+", Some((5, 15))),
            ("7.0-rc1", Some((7, 0))),
            ("six", None),
            ("", None),
        ] {
            assert_eq!(version_of(release), version, "{release}");
        }
        assert!(FEATURES.windows(2).all(|two| two[0].0 < two[1].0));
    }
}
