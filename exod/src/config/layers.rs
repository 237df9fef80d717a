//! Files on top of each other: the configuration, then what lies in the folder beside it.
//!
//! `/etc/exo/exod.toml` has its additions in `/etc/exo/exod.d/*.toml`, taken in the order of their
//! names. Each file is checked for itself first, so that an error names the file and the line; then
//! a later file's keys replace an earlier one's, and its rules come after those that were there.
//! Since the first rule that names somebody decides, an addition can let more people in and cannot
//! take away what the administrator's own file says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// Files in the folder: more are a mistake, such as a wrong path.
pub const ADDITIONS_MAX: usize = 256;

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read {path}: {source}; write one (systemd/exod.toml is an example) or name another with --config"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The folder of additions, or a file in it, cannot be read.
    #[error("cannot read {path}: {source}; repair it, or take it out of the folder")]
    Addition {
        /// The file or the folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The folder is not what it should be.
    #[error("{path} has more than {ADDITIONS_MAX} files: is it the right folder?")]
    Crowd {
        /// The folder.
        path: PathBuf,
    },
    /// The file is not what it should be; the text names line and column.
    #[error("{path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column, the line itself, and what is wrong with it.
        text: String,
        /// The same in one line.
        brief: String,
    },
}

impl ConfigError {
    /// One line, for a status: `path:line: what is wrong`.
    pub fn brief(&self) -> String {
        match self {
            ConfigError::Parse { brief, .. } => brief.clone(),
            other => other.to_string(),
        }
    }
}

/// A configuration, and the files that it was made of.
#[derive(Clone)]
pub struct Loaded {
    /// What they say together.
    pub config: Config,
    /// In the order in which they were read.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Reads and checks a file and the additions in the folder beside it. Blocks: names of users
    /// may be looked up far away.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let read = fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut all = check(path, &text)?;
        let mut files = vec![path.to_owned()];
        for addition in additions(&folder(path))? {
            let read = fs::read_to_string(&addition);
            let text = read.map_err(|source| ConfigError::Addition {
                path: addition.clone(),
                source,
            })?;
            lay_over(&mut all, check(&addition, &text)?);
            files.push(addition);
        }
        let config = Config::deserialize_table(all).map_err(|error| parse(path, "", &error))?;
        Ok(Loaded { config, files })
    }

    fn deserialize_table(table: Table) -> Result<Config, toml::de::Error> {
        table.try_into()
    }
}

/// Where a configuration's additions are.
pub fn folder(path: &Path) -> PathBuf {
    path.with_extension("d")
}

/// One file by itself: good for a configuration, and as the table that it is.
fn check(path: &Path, text: &str) -> Result<Table, ConfigError> {
    Config::parse(text)
        .and_then(|_| toml::from_str(text))
        .map_err(|error| parse(path, text, &error))
}

fn parse(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|text| format!("{}:", text.matches('\n').count() + 1));
    ConfigError::Parse {
        path: path.to_owned(),
        text: error.to_string(),
        brief: format!(
            "{}:{} {}",
            path.display(),
            line.unwrap_or_default(),
            error.message().replace('\n', ", ")
        ),
    }
}

/// The files of the folder in the order of their names; none where there is no folder.
fn additions(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Addition {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // What editors and package managers leave there has another ending, or a dot in front.
        if name.ends_with(".toml") && !name.starts_with('.') {
            files.push(path);
        }
        if files.len() > ADDITIONS_MAX {
            return Err(ConfigError::Crowd {
                path: folder.to_owned(),
            });
        }
    }
    files.sort();
    Ok(files)
}

/// Keys replace keys, tables merge, and tables of tables (the rules) come after one another.
fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => lay_over(old, new),
            (Some(Value::Array(old)), Value::Array(new)) if key == "rule" => old.extend(new),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FrameCount;
    use crate::policy::Who;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("exod.d")).expect("a folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("written");
        }
        let path = dir.path().join("exod.toml");
        (dir, path)
    }

    fn refused(files: &[(&str, &str)]) -> ConfigError {
        let (_dir, path) = written(files);
        Config::load(&path).err().expect("a mistake")
    }

    #[test]
    fn later_files_replace_keys_and_append_rules() {
        let (dir, path) = written(&[
            (
                "exod.toml",
                "workers = 3\n[pool]\nframes = 8\nready = [{ frames = 2, units = 3 }]\n\
                 [[rule]]\nuser = 1",
            ),
            (
                "exod.d/20.toml",
                "[pool]\nready = []\nframes = 10\n[[rule]]\nuser = 3",
            ),
            (
                "exod.d/10.toml",
                "give_back_ms = 7\n[pool]\nframes = 9\n[[rule]]\ngroup = 2",
            ),
            ("exod.d/30.toml.dpkg-old", "nonsense"),
            ("exod.d/.30.toml", "nonsense"),
        ]);
        let loaded = Config::load(&path).expect("good files");
        let config = loaded.config;
        assert_eq!((config.workers.0, config.give_back_ms), (3, 7));
        assert_eq!(config.pool.frames, FrameCount(10));
        assert!(config.pool.ready.0.is_empty(), "replaced as a whole");
        let who: Vec<Who> = config.policy.rules.iter().map(|r| r.who).collect();
        assert_eq!(who, [Who::User(1), Who::Group(2), Who::User(3)]);
        let names = ["exod.toml", "exod.d/10.toml", "exod.d/20.toml"];
        assert_eq!(loaded.files, names.map(|name| dir.path().join(name)));
    }

    #[test]
    fn an_error_names_its_file_and_line() {
        let good = ("exod.toml", "workers = 3\n");
        let wrong = refused(&[good, ("exod.d/a.toml", "\n\nworkers = 0\n")]);
        let (text, brief) = (wrong.to_string(), wrong.brief());
        assert!(text.contains("exod.d/a.toml: "), "{text}");
        assert!(text.contains("line 3"), "{text}");
        assert!(
            brief.contains("exod.d/a.toml:3: 0 workers: use 1 to 64"),
            "{brief}"
        );
        assert!(!brief.contains('\n'), "{brief}");
        let twice = refused(&[("exod.toml", "workers = 1\nworkers = 2\n")]);
        assert!(twice.brief().contains("exod.toml:2:"), "{twice}");
        let binary = refused(&[good, ("exod.d/a.toml", "workers = 1\0")]);
        assert!(binary.brief().contains("exod.d/a.toml:1:"), "{binary}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (dir, path) = written(&[]);
        let none = Config::load(&path).err().expect("no file");
        assert!(matches!(none, ConfigError::Read { .. }), "{none}");
        fs::write(&path, "").expect("written");
        fs::create_dir(dir.path().join("exod.d/a.toml")).expect("a directory");
        let folder = Config::load(&path).err().expect("no file");
        assert!(matches!(folder, ConfigError::Addition { .. }), "{folder}");
        fs::remove_dir(dir.path().join("exod.d/a.toml")).expect("removed");
        let dangling = dir.path().join("exod.d/b.toml");
        std::os::unix::fs::symlink("/nowhere", &dangling).expect("a link");
        let dangling = Config::load(&path).err().expect("no file");
        assert!(dangling.to_string().contains("b.toml"), "{dangling}");
    }

    #[test]
    fn the_folder_is_bounded() {
        let (dir, path) = written(&[("exod.toml", "")]);
        for n in 0..=ADDITIONS_MAX {
            fs::write(dir.path().join(format!("exod.d/{n}.toml")), "").expect("written");
        }
        let crowd = Config::load(&path).err().expect("too many");
        assert!(matches!(crowd, ConfigError::Crowd { .. }), "{crowd}");
    }
}
