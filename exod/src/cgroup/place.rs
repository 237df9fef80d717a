//! Where exod is among the cgroups, and whether it may change anything there.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Changes, Error};
use crate::config::Cores;

/// Where Linux has cgroup v2.
pub const ROOT: &str = "/sys/fs/cgroup";

/// exod itself, below its own cgroup, once that one has children.
const LEAF: &str = "daemon";

/// Slices that systemd puts everybody in.
const SHARED: [&str; 3] = ["system.slice", "user.slice", "machine.slice"];

/// See the module.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
    /// exod's own cgroup below the root, without a slash in front.
    own: PathBuf,
}

impl Place {
    /// As the kernel says in `/proc/self/cgroup`, whose text this is, below that root.
    pub fn new(root: &Path, proc_self_cgroup: &str) -> Result<Place, Error> {
        if !root.join("cgroup.controllers").exists() {
            return Err(Error::NoUnified(root.to_owned()));
        }
        let unified = proc_self_cgroup
            .lines()
            .find_map(|l| l.strip_prefix("0::/"));
        let own = Path::new(unified.ok_or_else(|| Error::NoUnified(root.to_owned()))?);
        // An exod that was killed and started again by hand is in the leaf that was made for it.
        let own = match own.parent() {
            Some(parent) if own.ends_with(LEAF) => parent,
            _ => own,
        };
        Ok(Place {
            root: root.to_owned(),
            own: own.to_owned(),
        })
    }

    /// This process's.
    pub fn of_this_process() -> Result<Place, Error> {
        let path = Path::new("/proc/self/cgroup");
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        Place::new(Path::new(ROOT), &text)
    }

    /// exod's own cgroup.
    pub fn own(&self) -> PathBuf {
        self.root.join(&self.own)
    }

    /// The slice that it is in.
    pub fn slice(&self) -> PathBuf {
        self.root.join(self.own.parent().unwrap_or(Path::new("")))
    }

    /// A cgroup's name, as systemd and `/proc/PID/cgroup` have it.
    pub fn name(&self, cgroup: &Path) -> String {
        let below = cgroup.strip_prefix(&self.root).unwrap_or(cgroup);
        format!("/{}", below.display())
    }

    /// All that are above a cgroup, from the root down.
    pub fn above(&self, cgroup: &Path) -> Vec<PathBuf> {
        let mut above: Vec<PathBuf> = cgroup
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(&self.root))
            .map(Path::to_owned)
            .collect();
        above.reverse();
        above
    }

    /// Whether exod is alone in a cgroup of its own, in a slice that is not everybody's, and the
    /// kernel has the controller. So an exod that was started by hand changes nobody's session.
    pub fn check(&self, controller: Option<&'static str>) -> Result<(), Error> {
        let slice = self.slice();
        let name = self.name(&slice);
        if self.own.parent().is_none_or(|p| p.as_os_str().is_empty()) {
            return Err(Error::NotAlone(self.name(&self.own())));
        }
        if SHARED
            .iter()
            .any(|shared| name.trim_matches('/') == *shared)
        {
            return Err(Error::SharedSlice(name));
        }
        let me = std::process::id().to_string();
        let mut others = Vec::new();
        for cgroup in [self.own(), self.own().join(LEAF)] {
            if cgroup.exists() {
                others.extend(
                    self.read(&cgroup.join("cgroup.procs"))?
                        .lines()
                        .map(str::to_owned),
                );
            }
        }
        if others.iter().any(|process| *process != me) {
            return Err(Error::NotAlone(self.name(&self.own())));
        }
        let there = self.read(&self.root.join("cgroup.controllers"))?;
        match controller {
            Some(c) if !there.split(' ').any(|name| name == c) => Err(Error::NoController(c)),
            _ => Ok(()),
        }
    }

    /// All cores that the machine runs on, and those that are reserved already.
    pub fn cores(&self) -> Result<Cores, Error> {
        // Without the cores of partitions, which those of exod's own would be too.
        let effective = self.read_cores(&self.root.join("cpuset.cpus.effective"))?;
        let isolated = self.root.join("cpuset.cpus.isolated");
        match isolated.exists() {
            true => Ok(effective.plus(&self.read_cores(&isolated)?)),
            false => Ok(effective),
        }
    }

    /// Lets a cgroup's children have a controller.
    pub fn enable(
        &self,
        cgroup: &Path,
        controller: &str,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let file = cgroup.join("cgroup.subtree_control");
        if self.read(&file)?.split(' ').any(|name| name == controller) {
            return Ok(());
        }
        changes.write_and_undo_by(&file, &format!("+{controller}"), &format!("-{controller}"))
    }

    /// Moves exod into a leaf of its own cgroup: one that gives controllers to its children has
    /// no processes itself.
    pub fn move_to_leaf(&self, changes: &mut Changes) -> Result<(), Error> {
        let leaf = self.own().join(LEAF);
        changes.make_directory(&leaf)?;
        let me = std::process::id().to_string();
        // Going back is not possible while the leaf's sister is there, and not needed: the cgroup
        // ends with exod.
        let file = leaf.join("cgroup.procs");
        fs::write(&file, me).map_err(failed("write", &file))
    }

    /// A file's text without its line's end.
    pub fn read(&self, file: &Path) -> Result<String, Error> {
        let text = fs::read_to_string(file).map_err(failed("read", file))?;
        Ok(text.trim_end().to_owned())
    }

    /// A file with a list of cores.
    pub fn read_cores(&self, file: &Path) -> Result<Cores, Error> {
        let text = self.read(file)?;
        Cores::parse(&text).map_err(|e| failed("read", file)(std::io::Error::other(e)))
    }
}

pub(super) fn failed(
    verb: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { verb, path, source }
}
