//! A forwarding database: which station was last heard on which port, as every bridge keeps it.
//!
//! The size is fixed: a bucket of [`WAYS`] entries shares a cache line, an address belongs to one
//! bucket, and a full bucket gives up the entry that was heard longest ago. So strangers who invent
//! addresses cost entries of the same bucket and nothing else: a lookup is one line, always, and no
//! memory grows. Entries that were not heard for [`Fdb::age_max`] are as good as gone.
//!
//! Time is a number that the caller counts, in whatever unit; nothing here asks a clock.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use super::ethernet::EthernetAddress;
use crate::huge::HugeVec;

/// Entries in a bucket: four of 16 bytes are a cache line.
pub const WAYS: usize = 4;

/// One station.
#[derive(Clone, Copy, Debug)]
struct Entry {
    address: [u8; 6],
    port: u16,
    /// When it was heard, plus one; zero: never.
    heard: u64,
}

const EMPTY: Entry = Entry {
    address: [0; 6],
    port: 0,
    heard: 0,
};

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket([Entry; WAYS]);

const _: () = assert!(size_of::<Bucket>() == 64);

/// See the module.
#[derive(Debug)]
pub struct Fdb {
    buckets: HugeVec<Bucket>,
    /// Keyed, so that nobody can choose addresses that share a bucket.
    key: RandomState,
    age_max: u64,
}

impl Fdb {
    /// A database of at least `stations` entries (rounded up to a power of two of buckets), each
    /// good for `age_max` units of time after it was heard.
    pub fn new(stations: usize, age_max: u64) -> Fdb {
        let buckets = stations.div_ceil(WAYS).next_power_of_two();
        Fdb {
            buckets: HugeVec::new(Bucket([EMPTY; WAYS]), buckets),
            key: RandomState::new(),
            age_max,
        }
    }

    /// Entries that it can hold.
    pub fn capacity(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Units of time after which an entry is forgotten.
    pub fn age_max(&self) -> u64 {
        self.age_max
    }

    /// Whether it lies on hugepages.
    pub fn is_huge(&self) -> bool {
        self.buckets.is_huge()
    }

    /// Hears `station` on `port` at `now`. Groups send nothing, so a group's address is not
    /// learned; true when the station is new or has moved.
    #[inline]
    pub fn learn(&mut self, station: EthernetAddress, port: u16, now: u64) -> bool {
        if !station.is_unicast() {
            return false;
        }
        let index = self.bucket_of(station);
        let Bucket(ways) = &mut self.buckets[index];
        let heard = now + 1;
        if let Some(entry) = ways.iter_mut().find(|e| e.is(station)) {
            let moved = entry.port != port || heard - entry.heard > self.age_max;
            (entry.port, entry.heard) = (port, heard);
            return moved;
        }
        if let Some(oldest) = ways.iter_mut().min_by_key(|e| e.heard) {
            *oldest = Entry {
                address: station.0,
                port,
                heard,
            };
        }
        true
    }

    /// Where `station` was last heard; none when it was not, or too long ago.
    #[inline]
    pub fn find(&self, station: EthernetAddress, now: u64) -> Option<u16> {
        let Bucket(ways) = &self.buckets[self.bucket_of(station)];
        let entry = ways.iter().find(|e| e.is(station))?;
        (now + 1 - entry.heard <= self.age_max).then_some(entry.port)
    }

    /// Forgets every station that was heard on `port`, as when its link went down.
    pub fn forget_port(&mut self, port: u16) {
        for Bucket(ways) in self.buckets.iter_mut() {
            for entry in ways.iter_mut().filter(|e| e.port == port) {
                *entry = EMPTY;
            }
        }
    }

    #[inline]
    fn bucket_of(&self, station: EthernetAddress) -> usize {
        self.key.hash_one(station.0) as usize & (self.buckets.len() - 1)
    }
}

impl Entry {
    #[inline]
    fn is(&self, station: EthernetAddress) -> bool {
        self.heard != 0 && self.address == station.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::ethernet::local;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Against a map that never forgets: what is found is what was heard last, in time; what
        /// is not found is too old, or was displaced, which takes more stations than ways.
        #[test]
        fn it_finds_what_was_heard_last(
            steps in prop::collection::vec((0u16..12, 0u16..3, 0u64..5), 1..200),
        ) {
            let mut fdb = Fdb::new(64, 20);
            let mut heard = HashMap::new();
            let mut now = 0;
            for (station, port, pause) in steps {
                now += pause;
                let known = heard.insert(station, (port, now));
                let news = fdb.learn(local(station), port, now);
                let same = matches!(known, Some((p, at)) if p == port && now - at <= 20);
                prop_assert!(news || same);
                for (station, (port, at)) in &heard {
                    match fdb.find(local(*station), now) {
                        Some(found) => {
                            prop_assert_eq!(found, *port);
                            prop_assert!(now - at <= 20);
                        }
                        None => prop_assert!(now - at > 20 || heard.len() > WAYS),
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_unheard_makes_room() {
        let mut fdb = Fdb::new(1, u64::MAX >> 1);
        assert_eq!(fdb.capacity(), WAYS);
        for n in 0..WAYS as u16 {
            fdb.learn(local(n), n, u64::from(n));
        }
        fdb.learn(local(0), 0, 10);
        fdb.learn(local(99), 9, 11);
        assert_eq!(fdb.find(local(1), 12), None);
        assert_eq!(fdb.find(local(0), 12), Some(0));
        assert_eq!(fdb.find(local(99), 12), Some(9));
    }

    #[test]
    fn groups_and_dead_ports_are_not_kept() {
        let mut fdb = Fdb::new(100, 10);
        assert!(!fdb.learn(EthernetAddress::BROADCAST, 1, 0));
        assert_eq!(fdb.find(EthernetAddress::BROADCAST, 0), None);
        fdb.learn(local(1), 1, 0);
        fdb.learn(local(2), 2, 0);
        fdb.forget_port(1);
        assert_eq!(fdb.find(local(1), 0), None);
        assert_eq!(fdb.find(local(2), 10), Some(2));
        assert_eq!(fdb.find(local(2), 11), None);
    }
}
