//! The machine's own limits: cache lines between two cores.

use crate::row::Row;

/// The rows of this module.
pub fn rows() -> Vec<Box<dyn Row>> {
    Vec::new()
}
