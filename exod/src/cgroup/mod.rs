//! What exod keeps of the machine for itself and its slice: cores and hugepages, by cgroup v2.
//!
//! A service manager puts exod into a cgroup of its own, below a slice:
//!
//! ```text
//! /sys/fs/cgroup                  the root: +hugetlb for the slice
//! └── exo.slice                   hugetlb.2MB.max: the limit of all in it, exod included
//!     └── exod.service            exod's own, delegated to it
//!         ├── daemon              exod itself, since only leaves have processes
//!         └── cores               an isolated partition: nobody else runs on its cores
//! ```
//!
//! A partition below a service needs its cores named as exclusive in every cgroup above it, which
//! Linux can since 6.7. systemd 252 knows nothing of the hugetlb controller and nothing of
//! partitions, so both are written by hand, and systemd leaves them alone.
//!
//! Nothing here is needed to serve: what this machine, this kernel or this service manager cannot
//! do is said in a line each, and exod goes on without. Every change is noted before it is made, so
//! that it is put back at the end, or by whoever finds the note (see [`crate::leftovers`]).

#![forbid(unsafe_code)]

mod changes;
mod place;

use std::path::PathBuf;

use crate::config::{Cores, FrameCount, MachineConfig};
use crate::frames::FRAME_BYTES;

pub use changes::Changes;
pub use place::{Place, ROOT};

/// Why something was not reserved. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No unified hierarchy.
    #[error(
        "no cgroup v2 at {0}: boot with systemd.unified_cgroup_hierarchy=1 (Debian 11 and later have it)"
    )]
    NoUnified(PathBuf),
    /// exod is not in a cgroup of its own.
    #[error("exod has no cgroup of its own ({0}): start it by systemd, with exod.service")]
    NotAlone(String),
    /// The slice has other people's services in it.
    #[error(
        "exod is in {0}, where others are too: give it a slice of its own, as in Slice=exo.slice"
    )]
    SharedSlice(String),
    /// The kernel has no such controller, or cgroup v1 has it.
    #[error(
        "cgroup v2 has no {0} controller here: is it built into the kernel, and not mounted as cgroup v1?"
    )]
    NoController(&'static str),
    /// Cores that are not there.
    #[error("core {missing} cannot be had: exod's machine has {present}")]
    NoCore {
        /// Those asked for.
        missing: Cores,
        /// All that are there.
        present: Cores,
    },
    /// Nothing would be left.
    #[error("cores {0} are all that there are: leave at least one for the rest of the machine")]
    AllCores(Cores),
    /// No `cpuset.cpus.exclusive`.
    #[error("a service can have cores of its own since Linux 6.7; this kernel is older")]
    OldKernel,
    /// The kernel made no partition.
    #[error("the kernel does not isolate cores {cores}: {answer}")]
    Refused {
        /// Which.
        cores: Cores,
        /// `cpuset.cpus.partition` as it reads now.
        answer: String,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {path}: {source} (exod.service has the rights that this needs)")]
    File {
        /// What for.
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// What was reserved, and what was not and why. Dropping it puts everything back.
#[derive(Debug, Default)]
pub struct Reservation {
    /// A line for each thing that exod has now.
    pub has: Vec<String>,
    /// A line for each thing that it has not.
    pub lacks: Vec<String>,
    changes: Changes,
}

/// Reserves what the configuration asks for, as far as that goes. Blocks for some milliseconds.
/// Changes are recorded in the file, if there is one.
pub fn reserve(machine: &MachineConfig, place: &Place, record: Option<PathBuf>) -> Reservation {
    let mut reservation = Reservation {
        changes: Changes::recorded_in(record),
        ..Reservation::default()
    };
    if let Some(max) = machine.hugepages_max {
        let limited = limit_hugepages(place, max, &mut reservation.changes);
        reservation.note(limited, "machine.hugepages_max does not hold");
    }
    if !machine.cores.is_empty() {
        let isolated = isolate(place, &machine.cores, &mut reservation.changes);
        reservation.note(isolated, "machine.cores are not isolated");
    }
    reservation
}

impl Reservation {
    /// Nothing was reserved, and why.
    pub fn nothing(error: &Error) -> Reservation {
        Reservation {
            lacks: vec![format!("[machine] is left aside: {error}")],
            ..Reservation::default()
        }
    }

    fn note(&mut self, outcome: Result<String, Error>, otherwise: &str) {
        match outcome {
            Ok(has) => self.has.push(has),
            Err(error) => self.lacks.push(format!("{otherwise}: {error}")),
        }
    }
}

fn limit_hugepages(place: &Place, max: FrameCount, changes: &mut Changes) -> Result<String, Error> {
    place.check(Some("hugetlb"))?;
    let slice = place.slice();
    changes.attempt(|changes| {
        for above in place.above(&slice) {
            place.enable(&above, "hugetlb", changes)?;
        }
        let bytes = u64::from(max.0) * FRAME_BYTES as u64;
        // The second bounds what is mapped and not yet touched.
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
            changes.write(&slice.join(file), &bytes.to_string())?;
        }
        Ok(format!(
            "{} takes at most {} hugepages",
            place.name(&slice),
            max.0
        ))
    })
}

fn isolate(place: &Place, cores: &Cores, changes: &mut Changes) -> Result<String, Error> {
    place.check(Some("cpuset"))?;
    let present = place.cores()?;
    let missing = cores.minus(&present);
    if !missing.is_empty() {
        return Err(Error::NoCore { missing, present });
    }
    if present.minus(cores).is_empty() {
        return Err(Error::AllCores(cores.clone()));
    }
    changes.attempt(|changes| {
        let own = place.own();
        let inside = place.above(&own);
        for above in &inside {
            place.enable(above, "cpuset", changes)?;
        }
        // The kernel shows the file in every cgroup that has the controller, or in none.
        if !own.join("cpuset.cpus.exclusive").exists() {
            return Err(Error::OldKernel);
        }
        place.move_to_leaf(changes)?;
        place.enable(&own, "cpuset", changes)?;
        let partition = own.join("cores");
        changes.make_directory(&partition)?;
        for cgroup in inside.iter().skip(1).chain([&own]) {
            let file = cgroup.join("cpuset.cpus.exclusive");
            let all = place.read_cores(&file)?.plus(cores);
            changes.write(&file, &all.to_string())?;
        }
        for file in ["cpuset.cpus", "cpuset.cpus.exclusive"] {
            changes.write(&partition.join(file), &cores.to_string())?;
        }
        let kind = partition.join("cpuset.cpus.partition");
        changes.write(&kind, "isolated")?;
        match place.read(&kind)? {
            answer if answer == "isolated" => Ok(format!(
                "cores {cores} are isolated in {}",
                place.name(&partition)
            )),
            answer => Err(Error::Refused {
                cores: cores.clone(),
                answer,
            }),
        }
    })
}
