//! The project's files, read once, with the little understanding of Rust that the rules need.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file.
pub struct File {
    /// Relative to the project's root, with `/` between its parts.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// The root of the project.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("exod lies in the workspace")
        .to_owned()
}

/// Every file that is text, but for build output and the lock file.
pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    collect(&root(), "", &mut files);
    assert!(files.len() > 50, "the project is somewhere else");
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The text of the file at `path`, which must be there.
pub fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    let file = files.iter().find(|f| f.path == path);
    &file.unwrap_or_else(|| panic!("no {path}")).text
}

/// Names that are not the project's: build output, version control, editors.
fn is_foreign(name: &str) -> bool {
    let hidden = name.starts_with('.') && !matches!(name, ".ci" | ".gitignore");
    hidden || matches!(name, "target" | "Cargo.lock")
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let entry = entry.expect("a readable entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_foreign(&name) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("its type").is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text });
        }
    }
}

impl File {
    /// Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Markdown.
    pub fn is_page(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Part of a library or a program, not a test, an example or a benchmark.
    pub fn is_source(&self) -> bool {
        self.is_rust() && self.path.contains("/src/")
    }

    /// A module that only tests compile.
    pub fn is_test_module(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The lines of a source without comments and without the unit tests at its end.
    pub fn code(&self) -> impl Iterator<Item = &str> {
        let lines = self
            .text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]") && !line.contains("(test, "));
        lines.map(|line| line.split("//").next().unwrap_or_default())
    }

    /// Whether some line of code is or does something unsafe.
    pub fn has_unsafe(&self) -> bool {
        let does = |line: &str| {
            line.split("unsafe ").skip(1).any(|rest| {
                let rest = rest.trim_start();
                ["{", "fn ", "impl", "extern", "trait"]
                    .iter()
                    .any(|word| rest.starts_with(word))
            })
        };
        self.text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .any(does)
    }

    /// Whether it turns unsafe code off for itself and everything below.
    pub fn turns_unsafe_off(&self) -> bool {
        let off = |line: &str| {
            line.starts_with("#![forbid(unsafe_code)]") || line.starts_with("#![deny(unsafe_code)]")
        };
        self.text.lines().any(off)
    }

    /// The modules that this one lies in, nearest first, as paths without `.rs` or `/mod.rs`.
    pub fn ancestors(&self) -> Vec<String> {
        let mut at = self.module();
        let mut found = Vec::new();
        while let Some((above, _)) = at.rsplit_once('/') {
            found.push(above.to_owned());
            at = above.to_owned();
        }
        found
    }

    /// Its path as a module: without `.rs`, `/mod.rs` or the name of a crate's root.
    pub fn module(&self) -> String {
        let stem = self.path.trim_end_matches(".rs");
        let stem = stem.trim_end_matches("/mod").trim_end_matches("/lib");
        stem.trim_end_matches("/main").to_owned()
    }
}
