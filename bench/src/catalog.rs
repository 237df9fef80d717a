//! All rows, in the order in which the table shows them.
#![forbid(unsafe_code)]

use crate::row::Row;
use crate::{dpdk, floor, kernel, port};

/// Every row that this program knows, whether or not it can run here.
pub fn rows() -> Vec<Box<dyn Row>> {
    let mut rows = port::rows();
    rows.extend(floor::rows());
    rows.extend(dpdk::rows());
    rows.extend(kernel::rows());
    rows
}

/// The row with exactly this name.
pub fn find(name: &str) -> Option<Box<dyn Row>> {
    rows().into_iter().find(|row| row.name() == name)
}
