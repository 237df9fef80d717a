//! Rows of this project's own ports.

use crate::row::Row;

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    Vec::new()
}
