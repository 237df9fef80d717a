//! The stock of ready units, so that zeroing and mounting are off the grant path.
#![forbid(unsafe_code)]

use super::Unit;

/// Ready, zeroed units by size. Makes no system call and never blocks.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// A pool that wants to keep, for each `(frames, units)`, that many units of that many frames.
    pub fn new(stock: &[(u32, usize)]) -> Pool {
        let _ = stock;
        todo!()
    }

    /// A ready unit of exactly `frames` frames, if there is one. If not: [`super::Maker::make`] in a
    /// job.
    pub fn take(&mut self, frames: u32) -> Option<Unit> {
        let _ = frames;
        todo!()
    }

    /// What to make now: the frames of each missing unit. They count as ordered from here on, so
    /// that asking again does not order twice, until [`put`](Pool::put) or
    /// [`failed`](Pool::failed).
    pub fn wanted(&mut self) -> Vec<u32> {
        todo!()
    }

    /// Takes in a unit fresh from a [`super::Maker`]. Never one that a client has held.
    pub fn put(&mut self, unit: Unit) {
        let _ = unit;
        todo!()
    }

    /// An ordered unit could not be made. [`wanted`](Pool::wanted) will name it again: ask after a
    /// pause.
    pub fn failed(&mut self, frames: u32) {
        let _ = frames;
        todo!()
    }

    /// Frames ready.
    pub fn frames_ready(&self) -> u64 {
        todo!()
    }
}
