//! The configuration: one TOML file and a folder of additions beside it.
//!
//! Everything that a file can say is checked while it is read, so that an error names its line,
//! and a key that nobody knows is an error too: a misspelt limit must not become no limit. What is
//! not said gets the value that grants least. `systemd/exod.toml` explains every key.
//!
//! [`layers`] puts the files on top of each other, [`change`] says what a reload may change,
//! [`cores`] reads lists of cores.

#![forbid(unsafe_code)]

pub mod change;
pub mod cores;
pub mod layers;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::audit::AuditConfig;
use crate::frames::{FRAMES_MAX as UNIT_FRAMES_MAX, PageChoice};
use crate::policy::{Grant, Policy, Rule, Who};

pub use self::cores::Cores;
pub use self::layers::{ConfigError, Loaded};

/// Where exod looks for its configuration when nothing else is said.
pub const CONFIG_PATH: &str = "/etc/exo/exod.toml";

/// Where exod listens when nothing else is said.
pub const SOCKET_PATH: &str = "/run/exod/exod.sock";

/// Worker threads: one can always be held by a slow call, so more than one is wise; more than 64
/// would only queue on the same kernel locks.
pub const WORKERS: RangeInclusive<usize> = 1..=64;

/// Frames that exod may own in all: 4 Mi frames are 8 TiB, beyond today's machines.
pub const FRAMES_MAX: u64 = 1 << 22;

/// Units of all sizes that exod keeps ready: each costs a descriptor, sometimes a mount.
pub const READY_UNITS_MAX: usize = 1024;

/// Sessions in all: each costs four descriptors of exod's.
pub const SESSIONS_MAX: u32 = 16_384;

/// Size of an audit file in MiB: less would be set aside all the time, more nobody reads.
pub const AUDIT_MIB: RangeInclusive<u32> = 1..=4096;

/// All that exod can be told.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The listening socket. Nothing: no socket file (an embedded exod).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The group that may connect. Nothing: exod's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// Threads for slow kernel calls.
    pub workers: Workers,
    /// Sessions in all.
    pub sessions: Sessions,
    /// Sessions of one user.
    pub sessions_per_user: Sessions,
    /// How long the survivor of a port keeps its dead peer's packets, in milliseconds.
    pub give_back_ms: u16,
    /// The audit trail's file. Nothing: no trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<PathBuf>,
    /// After how many MiB that file is set aside.
    pub audit_mib: AuditMib,
    /// Files that were set aside and are kept.
    pub audit_kept: u8,
    /// Memory.
    pub pool: PoolConfig,
    /// What exod reserves of the machine.
    pub machine: MachineConfig,
    /// Who may hold what.
    #[serde(rename = "rule")]
    pub policy: Policy,
    /// Called by a worker before each job: a place where tests make the kernel slow.
    #[serde(skip)]
    pub before_job: Option<JobHook>,
}

/// See [`Config::before_job`].
pub type JobHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Which frames exod owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// The pages behind units.
    pub pages: PageChoice,
    /// Frames of the pool's page kind that may be handed out in all.
    pub frames: FrameCount,
    /// Unit sizes that are kept ready, zeroed.
    pub ready: ReadySizes,
    /// Hugepages that the kernel is asked to reserve; zero: leave its pool alone.
    pub raise_hugepages: FrameCount,
}

/// What exod keeps for itself and its slice, through cgroup v2.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// Cores that nobody else shall run on. None: all are shared.
    pub cores: Cores,
    /// Hugepages of 2 MiB that all in exod's slice may take together. Nothing: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages_max: Option<FrameCount>,
}

/// A number of frames, at most [`FRAMES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct FrameCount(pub u32);

impl TryFrom<u64> for FrameCount {
    type Error = String;

    fn try_from(count: u64) -> Result<FrameCount, String> {
        match u32::try_from(count) {
            Ok(small) if count <= FRAMES_MAX => Ok(FrameCount(small)),
            _ => Err(format!("{count} frames are more than {FRAMES_MAX}")),
        }
    }
}

/// Threads, within [`WORKERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize")]
pub struct Workers(pub usize);

impl TryFrom<usize> for Workers {
    type Error = String;

    fn try_from(count: usize) -> Result<Workers, String> {
        if !WORKERS.contains(&count) {
            let (low, high) = (WORKERS.start(), WORKERS.end());
            return Err(format!("{count} workers: use {low} to {high}"));
        }
        Ok(Workers(count))
    }
}

/// A limit of sessions, 1 to [`SESSIONS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct Sessions(pub u32);

impl TryFrom<u32> for Sessions {
    type Error = String;

    fn try_from(count: u32) -> Result<Sessions, String> {
        if !(1..=SESSIONS_MAX).contains(&count) {
            return Err(format!("{count} sessions: use 1 to {SESSIONS_MAX}"));
        }
        Ok(Sessions(count))
    }
}

/// Mebibytes of an audit file, within [`AUDIT_MIB`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct AuditMib(pub u32);

impl TryFrom<u32> for AuditMib {
    type Error = String;

    fn try_from(mib: u32) -> Result<AuditMib, String> {
        if !AUDIT_MIB.contains(&mib) {
            let (low, high) = (AUDIT_MIB.start(), AUDIT_MIB.end());
            return Err(format!("{mib} MiB of audit trail: use {low} to {high}"));
        }
        Ok(AuditMib(mib))
    }
}

/// A group by name or number, looked up while the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NameOrId")]
pub struct GroupId(pub u32);

/// A user by name or number, looked up while the file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NameOrId")]
pub struct UserId(pub u32);

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrId {
    Id(u32),
    Name(String),
}

impl TryFrom<NameOrId> for GroupId {
    type Error = String;

    fn try_from(raw: NameOrId) -> Result<GroupId, String> {
        match raw {
            NameOrId::Id(id) => Ok(GroupId(id)),
            NameOrId::Name(name) => match nix::unistd::Group::from_name(&name) {
                Ok(Some(group)) => Ok(GroupId(group.gid.as_raw())),
                Ok(None) => Err(format!("no group {name:?}: make it with groupadd")),
                Err(e) => Err(format!("cannot look up group {name:?}: {e}")),
            },
        }
    }
}

impl TryFrom<NameOrId> for UserId {
    type Error = String;

    fn try_from(raw: NameOrId) -> Result<UserId, String> {
        match raw {
            NameOrId::Id(id) => Ok(UserId(id)),
            NameOrId::Name(name) => match nix::unistd::User::from_name(&name) {
                Ok(Some(user)) => Ok(UserId(user.uid.as_raw())),
                Ok(None) => Err(format!("no user {name:?}")),
                Err(e) => Err(format!("cannot look up user {name:?}: {e}")),
            },
        }
    }
}

/// Unit sizes to keep ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<ReadySize>")]
pub struct ReadySizes(pub Vec<ReadySize>);

/// So many units of so many frames each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadySize {
    /// Frames in each unit.
    pub frames: u32,
    /// Units that are ready at a time.
    pub units: usize,
}

impl TryFrom<Vec<ReadySize>> for ReadySizes {
    type Error = String;

    fn try_from(sizes: Vec<ReadySize>) -> Result<ReadySizes, String> {
        let units = sizes
            .iter()
            .fold(0usize, |all, s| all.saturating_add(s.units));
        if units > READY_UNITS_MAX {
            return Err(format!(
                "{units} ready units are more than {READY_UNITS_MAX}"
            ));
        }
        if !sizes
            .iter()
            .all(|s| (1..=UNIT_FRAMES_MAX).contains(&s.frames))
        {
            return Err(format!("a ready unit has 1 to {UNIT_FRAMES_MAX} frames"));
        }
        Ok(ReadySizes(sizes))
    }
}

impl ReadySizes {
    /// Frames in all of them.
    pub fn frames(&self) -> u64 {
        let frames = |s: &ReadySize| u64::from(s.frames).saturating_mul(s.units as u64);
        self.0.iter().map(frames).sum()
    }

    /// Frames and units of each.
    pub fn targets(&self) -> Vec<(u32, usize)> {
        self.0.iter().map(|s| (s.frames, s.units)).collect()
    }
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            pages: PageChoice::Auto,
            frames: FrameCount(64),
            ready: ReadySizes(vec![ReadySize {
                frames: 1,
                units: 2,
            }]),
            raise_hugepages: FrameCount(0),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            socket: Some(PathBuf::from(SOCKET_PATH)),
            group: None,
            workers: Workers(2),
            sessions: Sessions(1024),
            sessions_per_user: Sessions(64),
            give_back_ms: 1000,
            audit: None,
            audit_mib: AuditMib(16),
            audit_kept: 4,
            pool: PoolConfig::default(),
            machine: MachineConfig::default(),
            policy: Policy::default(),
            before_job: None,
        }
    }
}

impl Config {
    /// Checks a text; the error names line and column.
    pub fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    /// What is allowed, and hardly meant. A line for each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.policy.notes();
        let frames = u64::from(self.pool.frames.0);
        let ready = self.pool.ready.frames();
        if ready > frames {
            notes.push(format!(
                "pool.ready keeps {ready} frames, and pool.frames lets {frames} be granted"
            ));
        }
        match self.machine.hugepages_max {
            Some(FrameCount(max)) if u64::from(max) < frames => notes.push(format!(
                "machine.hugepages_max = {max} is less than pool.frames = {frames}"
            )),
            _ => {}
        }
        if self.sessions_per_user.0 > self.sessions.0 {
            let (one, all) = (self.sessions_per_user.0, self.sessions.0);
            notes.push(format!(
                "sessions_per_user = {one} is more than sessions = {all}"
            ));
        }
        notes
    }

    /// The audit trail, where there is to be one.
    pub fn audit_trail(&self) -> Option<AuditConfig> {
        let path = self.audit.clone()?;
        Some(AuditConfig {
            path,
            group: self.group.map(|group| group.0),
            bytes_max: u64::from(self.audit_mib.0) << 20,
            kept: u32::from(self.audit_kept),
        })
    }

    /// What an embedded exod runs on: no socket file, and everything that the machine has for the
    /// user that runs it.
    pub fn embedded() -> Config {
        let own = Rule {
            who: Who::User(rustix::process::geteuid().as_raw()),
            grant: Arc::new(Grant::everything()),
        };
        Config {
            socket: None,
            pool: PoolConfig {
                frames: FrameCount(FRAMES_MAX as u32),
                ready: ReadySizes(vec![ReadySize {
                    frames: 1,
                    units: 2,
                }]),
                ..PoolConfig::default()
            },
            policy: Policy { rules: vec![own] },
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        match Config::parse(text) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn an_empty_file_grants_nothing() {
        let config = Config::parse("").expect("defaults");
        assert!(config.policy.rules.is_empty());
        assert_eq!(config.pool.raise_hugepages, FrameCount(0));
    }

    #[test]
    fn errors_name_their_line_and_what_to_do() {
        let cases = [
            (
                "workers = 2\nwrokers = 3",
                "line 2",
                "unknown field `wrokers`",
            ),
            ("\n\nworkers = 0", "line 3", "use 1 to 64"),
            ("audit_mib = 0", "line 1", "use 1 to 4096"),
            ("sessions = 0", "line 1", "use 1 to 16384"),
            ("[pool]\npages = \"1G\"", "line 2", "`auto`, `2M`"),
            ("[pool]\nframes = 99999999", "line 2", "more than"),
            (
                "[pool]\nready = [{ frames = 0, units = 1 }]",
                "line 2",
                "1 to 512",
            ),
            (
                "[pool]\nready = [{ frames = 1, units = 9999 }]",
                "line 2",
                "more than 1024",
            ),
            ("group = \"no such group\"", "line 1", "groupadd"),
            ("[[rule]]\nuser = \"no such user\"", "line 2", "no user"),
            ("[[rule]]\nmax_frames = 1", "line 1", "exactly one of"),
            ("[[rule]]\nany = true\nuser = 0", "line 1", "exactly one of"),
            (
                "[[rule]]\nany = true\nmax_frame = 1",
                "line 3",
                "unknown field",
            ),
            (
                "[[rule]]\nany = true\ncreate = [\"a b\"]",
                "line 3",
                "letters, digits",
            ),
        ];
        for (text, line, hint) in cases {
            let error = error_of(text);
            assert!(error.contains(line), "{text:?}: {error}");
            assert!(error.contains(hint), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_example_is_accepted_and_says_what_the_defaults_are() {
        let text = include_str!("../../systemd/exod.toml");
        let config = Config::parse(text).expect("systemd/exod.toml");
        let fresh = Config::default();
        assert_eq!(config.socket, fresh.socket);
        assert_eq!(config.workers, fresh.workers);
        assert_eq!(config.sessions, fresh.sessions);
        assert_eq!(config.give_back_ms, fresh.give_back_ms);
        assert_eq!(config.sessions_per_user, fresh.sessions_per_user);
        assert_eq!(config.pool.pages, fresh.pool.pages);
        assert_eq!(config.pool.frames, fresh.pool.frames);
        assert_eq!(config.pool.ready, fresh.pool.ready);
        assert_eq!(config.audit_mib, fresh.audit_mib);
        assert_eq!(config.audit_kept, fresh.audit_kept);
        assert_eq!(config.pool.raise_hugepages, fresh.pool.raise_hugepages);
        assert_eq!(config.machine.cores, fresh.machine.cores);
        assert!(config.notes().is_empty(), "{:?}", config.notes());
    }

    #[test]
    fn the_example_explains_every_key() {
        let text = include_str!("../../systemd/exod.toml");
        let mut known = ["group", "audit", "machine.hugepages_max"]
            .map(str::to_owned)
            .to_vec();
        known.extend(change::keys(&Config::default()).into_keys());
        for key in known {
            let name = key.rsplit('.').next().unwrap_or_default();
            let shown = text.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.starts_with(&format!("{name} =")) || line == format!("[[{name}]]")
            });
            assert!(shown, "systemd/exod.toml does not show {key}");
        }
    }
}
