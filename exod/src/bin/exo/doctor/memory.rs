//! Memory: which pages there are for exod, and the limits of this user.

#![forbid(unsafe_code)]

use exod::frames::{PageChoice, PageKind, Protection, probe};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use super::read::{chosen, number};
use crate::shape;

const PART: &str = "memory";

/// Hugepages with which the first steps are fast: a few units for a few clients.
const HUGEPAGES_WANTED: u64 = 64;

/// Descriptors that exod should be able to open: four a session, and some for each unit.
const NOFILE_WANTED: u64 = 4096;

pub fn look() -> Vec<Finding> {
    let mut findings = vec![offer()];
    findings.extend(hugepages());
    findings.extend(transparent());
    findings.extend(limits());
    findings
}

/// What an exod that this user starts would hand out, found out as exod does it.
fn offer() -> Finding {
    match probe(PageChoice::Auto) {
        Ok(offer) => {
            let protected = match offer.protection {
                Protection::Mount => "private mounts",
                Protection::Seals => "seals",
            };
            let found = format!(
                "an exod of this user hands out {} pages protected by {protected}",
                offer.page_kind.name()
            );
            let finding = Finding::told(PART, "pages", found);
            let best = offer.page_kind == PageKind::Huge2M;
            finding.should(best, offer.reasons.join("; "))
        }
        Err(error) => Finding::told(PART, "pages", "none").must(false, error.to_string()),
    }
}

fn hugepages() -> Vec<Finding> {
    let pool = |kib: u64| {
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
        let read = |name: &str| number(format!("{dir}/{name}"));
        Some((
            read("nr_hugepages")?,
            read("free_hugepages")?,
            read("resv_hugepages")?,
        ))
    };
    let say = |(all, free, reserved): (u64, u64, u64)| {
        format!("{all}, {free} free, {reserved} of these reserved")
    };
    let mut findings = Vec::new();
    findings.push(match pool(2048) {
        Some(counts) => {
            let (all, free, reserved) = counts;
            let enough = free.saturating_sub(reserved) > 0 || all >= HUGEPAGES_WANTED;
            Finding::told(PART, "hugepages 2M", say(counts)).should(
                enough,
                format!("sysctl vm.nr_hugepages={HUGEPAGES_WANTED} (soon after boot), or `pool.raise_hugepages` in exod's configuration"),
            )
        }
        None => Finding::told(PART, "hugepages 2M", "none in this kernel"),
    });
    findings.push(match pool(1 << 20) {
        Some(counts) => Finding::told(PART, "hugepages 1G", say(counts)),
        None => Finding::told(PART, "hugepages 1G", "none in this kernel"),
    });
    findings
}

fn transparent() -> Vec<Finding> {
    const DIR: &str = "/sys/kernel/mm/transparent_hugepage";
    let of = |name: &str| chosen(format!("{DIR}/{name}")).unwrap_or_else(|| "none".to_owned());
    let shared = of("shmem_enabled");
    let usable = matches!(
        shared.as_str(),
        "always" | "within_size" | "advise" | "force"
    );
    let fix = format!("where hugepages run out: echo advise > {DIR}/shmem_enabled");
    let found = format!("{}; for shared memory {shared}", of("enabled"));
    vec![Finding::told(PART, "transparent", found).should(usable, fix)]
}

fn limits() -> Vec<Finding> {
    let say = |limit: Option<u64>, bytes: bool| match limit {
        None => "unlimited".to_owned(),
        Some(limit) if bytes => shape::bytes(limit),
        Some(limit) => limit.to_string(),
    };
    let nofile = getrlimit(Resource::Nofile);
    let memlock = getrlimit(Resource::Memlock);
    let enough = nofile.maximum.is_none_or(|limit| limit >= NOFILE_WANTED);
    let found = format!(
        "{} now, up to {}",
        say(nofile.current, false),
        say(nofile.maximum, false)
    );
    vec![
        Finding::told(PART, "descriptors", found).should(
            enough,
            format!("ulimit -Hn {NOFILE_WANTED}, or LimitNOFILE= in exod's unit: units and sessions cost descriptors"),
        ),
        Finding::told(PART, "locked memory", say(memlock.maximum, true)),
    ]
}
