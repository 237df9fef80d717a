//! Tables of fixed size on hugepages of this process alone.
//!
//! A large table that is read at random misses the TLB on nearly every look with 4 KiB pages; with
//! 2 MiB pages it hardly ever does. Hugepages may be short, so a [`HugeVec`] takes ordinary memory
//! when there are none, and says which it has.
//!
//! Not for sharing with peers: that takes granted frames. Do not fork while one is in use.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A slice on the heap whose length never changes, on hugepages where there are some.
pub struct HugeVec<T> {
    first: NonNull<T>,
    len: usize,
    huge: bool,
}

// SAFETY: it owns its elements, as a boxed slice does.
unsafe impl<T: Send> Send for HugeVec<T> {}
// SAFETY: a shared HugeVec lends shared elements, as a boxed slice does.
unsafe impl<T: Sync> Sync for HugeVec<T> {}

impl<T: Copy> HugeVec<T> {
    /// `len` copies of `value`.
    ///
    /// # Panics
    /// When `len` elements exceed what an allocation may hold; it aborts when there is no memory.
    pub fn new(value: T, len: usize) -> HugeVec<T> {
        let layout = Layout::array::<T>(len).expect("a table that fits the address space");
        let (first, huge) = allocate(layout);
        let first = first.cast::<T>();
        for index in 0..len {
            // SAFETY: `index` is within the `len` elements that were allocated for T, aligned for
            // it by the layout; nothing was there to be dropped.
            unsafe { first.add(index).write(value) };
        }
        HugeVec { first, len, huge }
    }
}

impl<T> HugeVec<T> {
    /// Whether it lies on hugepages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    fn layout(&self) -> Layout {
        Layout::array::<T>(self.len).expect("it was allocated with this layout")
    }
}

/// Memory for a table, and whether it is hugepages. Nothing is allocated for no bytes.
fn allocate(layout: Layout) -> (NonNull<u8>, bool) {
    if layout.size() == 0 {
        return (layout.dangling_ptr(), false);
    }
    // SAFETY: the layout has a size.
    if let Some(first) = NonNull::new(unsafe { hugepage_rs::alloc(layout) }) {
        return (first, true);
    }
    // SAFETY: as above.
    match NonNull::new(unsafe { alloc(layout) }) {
        Some(first) => (first, false),
        None => handle_alloc_error(layout),
    }
}

impl<T> Drop for HugeVec<T> {
    fn drop(&mut self) {
        let layout = self.layout();
        let first = self.first.as_ptr().cast();
        if layout.size() == 0 {
            return;
        }
        // SAFETY: allocated with this very layout, by the allocator that `huge` names; elements are
        // Copy (there is no other way to make one), so none needs dropping.
        unsafe {
            if self.huge {
                hugepage_rs::dealloc(first, layout);
            } else {
                dealloc(first, layout);
            }
        }
    }
}

impl<T> Deref for HugeVec<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were written in `new`, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and nobody else has a reference.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> std::fmt::Debug for HugeVec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pages = if self.huge {
            "hugepages"
        } else {
            "ordinary pages"
        };
        write!(f, "HugeVec({} elements on {pages})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_what_is_stored() {
        let mut table = HugeVec::new(7u64, 1000);
        assert!(table.iter().all(|n| *n == 7));
        table.iter_mut().zip(0..).for_each(|(slot, n)| *slot = n);
        assert!(table.iter().copied().eq(0..1000));
    }

    #[test]
    fn more_than_all_hugepages_is_ordinary_memory() {
        let info = std::fs::read_to_string("/proc/meminfo").expect("Linux");
        let line = info.lines().find(|l| l.starts_with("HugePages_Total:"));
        let total = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<usize>().ok());
        let len = (total.unwrap_or(0) + 1) << 21;
        if len > 8 << 30 {
            println!("skipped: more hugepages than a test should ask for");
            return;
        }
        let layout = Layout::array::<u8>(len).expect("a layout");
        let (first, huge) = allocate(layout);
        assert!(!huge);
        // SAFETY: allocated above with this layout by the ordinary allocator.
        unsafe { dealloc(first.as_ptr(), layout) };
    }

    #[test]
    fn an_empty_table_costs_nothing() {
        let table = HugeVec::new(1u64, 0);
        assert!(table.is_empty() && !table.is_huge());
    }
}
