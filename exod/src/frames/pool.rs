//! The stock of ready units, so that zeroing and mounting are off the grant path.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Unit;

/// Ready, zeroed units by size. Makes no system call and never blocks.
#[derive(Debug)]
pub struct Pool {
    shelves: BTreeMap<u32, Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    ready: Vec<Unit>,
    /// Units to keep ready.
    target: usize,
    /// Units that jobs are making.
    ordered: usize,
}

impl Pool {
    /// A pool that wants to keep, for each `(frames, units)`, that many units of that many frames.
    pub fn new(stock: &[(u32, usize)]) -> Pool {
        let mut pool = Pool {
            shelves: BTreeMap::new(),
        };
        pool.retarget(stock);
        pool
    }

    /// Wants another stock from here on. Gives back the units that it has too many of; dropping
    /// them takes time.
    pub fn retarget(&mut self, stock: &[(u32, usize)]) -> Vec<Unit> {
        for shelf in self.shelves.values_mut() {
            shelf.target = 0;
        }
        for &(frames, units) in stock {
            self.shelves.entry(frames).or_default().target += units;
        }
        let mut surplus = Vec::new();
        for shelf in self.shelves.values_mut() {
            let keep = shelf.target.min(shelf.ready.len());
            surplus.extend(shelf.ready.drain(keep..));
        }
        surplus
    }

    /// A ready unit of exactly `frames` frames, if there is one. If not: [`super::Maker::make`] in
    /// a job.
    pub fn take(&mut self, frames: u32) -> Option<Unit> {
        self.shelves.get_mut(&frames)?.ready.pop()
    }

    /// What to make now: the frames of each missing unit, as long as fewer than `orders_max` are
    /// being made. They count as ordered from here on, so that asking again does not order twice,
    /// until [`put`](Pool::put) or [`failed`](Pool::failed).
    pub fn wanted(&mut self, orders_max: usize) -> Vec<u32> {
        let ordered: usize = self.shelves.values().map(|shelf| shelf.ordered).sum();
        let mut room = orders_max.saturating_sub(ordered);
        let mut wanted = Vec::new();
        for (&frames, shelf) in &mut self.shelves {
            let coming = shelf.ready.len() + shelf.ordered;
            let missing = shelf.target.saturating_sub(coming).min(room);
            room -= missing;
            shelf.ordered += missing;
            wanted.extend(std::iter::repeat_n(frames, missing));
        }
        wanted
    }

    /// Units that are ready, and units that shall be.
    pub fn stock(&self) -> (usize, usize) {
        let counts = |shelf: &Shelf| (shelf.ready.len().min(shelf.target), shelf.target);
        let sum = |(a, b), (c, d)| (a + c, b + d);
        self.shelves.values().map(counts).fold((0, 0), sum)
    }

    /// Takes in a unit fresh from a [`super::Maker`]. Never one that a client has held.
    pub fn put(&mut self, unit: Unit) {
        let shelf = self.shelves.entry(unit.frames()).or_default();
        shelf.ordered = shelf.ordered.saturating_sub(1);
        shelf.ready.push(unit);
    }

    /// An ordered unit could not be made. [`wanted`](Pool::wanted) will name it again: ask after a
    /// pause.
    pub fn failed(&mut self, frames: u32) {
        if let Some(shelf) = self.shelves.get_mut(&frames) {
            shelf.ordered = shelf.ordered.saturating_sub(1);
        }
    }

    /// Frames ready.
    pub fn frames_ready(&self) -> u64 {
        let frames =
            |(frames, shelf): (&u32, &Shelf)| u64::from(*frames) * shelf.ready.len() as u64;
        self.shelves.iter().map(frames).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{Maker, Offer, PageKind, Protection};

    #[test]
    fn orders_what_is_missing_once_and_serves_exact_sizes() {
        let maker = Maker::new(&Offer {
            page_kind: PageKind::Small4K,
            protection: Protection::Seals,
            reasons: Vec::new(),
        })
        .expect("small pages need nothing");
        let mut pool = Pool::new(&[(2, 1), (1, 2)]);
        assert_eq!(pool.wanted(2), [1, 1], "as many at a time");
        assert_eq!(pool.wanted(3), [2]);
        assert_eq!(pool.wanted(8), [0; 0], "ordered already");
        pool.failed(2);
        assert_eq!(pool.wanted(8), [2], "what failed is wanted again");
        for frames in [1, 1, 2] {
            pool.put(maker.make(frames, None).expect("small pages"));
        }
        assert_eq!((pool.frames_ready(), pool.wanted(8).len()), (4, 0));
        assert!(pool.take(3).is_none(), "a size that is not stocked");
        assert_eq!(pool.take(2).map(|u| u.frames()), Some(2));
        assert!(pool.take(2).is_none(), "the shelf is empty");
        assert_eq!(pool.stock(), (2, 3));
        assert_eq!(pool.wanted(8), [2]);
        let surplus = pool.retarget(&[(1, 1), (4, 1)]);
        assert_eq!(surplus.len(), 1, "one too many of one frame");
        assert_eq!(pool.wanted(8), [4]);
        assert_eq!(pool.stock(), (1, 2));
    }
}
