//! Small files of the kernel's, and the numbers in them. What is not there is no error.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

/// A file's text without the white space around it.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// A number alone in its file.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The word in brackets, of those that could be chosen.
pub fn chosen(path: impl AsRef<Path>) -> Option<String> {
    let text = text(path)?;
    let word = text.split(['[', ']']).nth(1)?;
    Some(word.to_owned())
}

/// Names in a directory.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// Whether there is something.
pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
