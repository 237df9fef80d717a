//! What is out on a port beside buffers of its own pool.
//!
//! A port sends packets of further pools of this domain, and packets that were received from other
//! ports, the *sources*, without copying them. For each slot a few words say whose it is; when the
//! peer returns it, a buffer goes back to its pool, and slots of a source go back to the source's
//! sender, as one run where they follow each other.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::abi::port::SEGMENTS_MAX;
use crate::packet::{InFlight, Mempool, Packet};

use super::rx::Shared;

/// Slots of a source, one behind the other: those that a packet holds, or those of several packets
/// on their way home.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// The source, by number.
    pub(crate) source: u16,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Whose a slot's packet is. Small: there is one for each slot.
#[derive(Debug, Default)]
enum Owner {
    #[default]
    Nobody,
    Pool(u16, InFlight),
    Source {
        source: u16,
        first: u16,
        count: u16,
    },
}

/// A port whose packets may be sent on.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) shared: Rc<Shared>,
    /// Our segments by the source's; zero, our own, where it is none of ours.
    pub(crate) segments: [u8; SEGMENTS_MAX],
    /// Segments of it that were asked for.
    pub(crate) known: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// By slot. Empty until there is something.
    owners: Box<[Owner]>,
    /// Further pools of ours, and the segment that each lies in.
    pools: Vec<(Rc<Mempool>, u8)>,
    /// By number. None where one is over.
    sources: Vec<Option<Source>>,
}

impl Foreign {
    /// Lets packets of one more pool of ours be sent from a segment. `slots` is how many slots the
    /// port has, here and below.
    pub(crate) fn add_pool(&mut self, pool: Rc<Mempool>, segment: u8, slots: u32) {
        self.make_room(slots);
        self.pools.push((pool, segment));
    }

    fn make_room(&mut self, slots: u32) {
        if self.owners.is_empty() {
            self.owners = (0..slots).map(|_| Owner::Nobody).collect();
        }
    }

    /// The number of a packet's pool among ours, and its segment.
    pub(crate) fn pool_of(&self, packet: &Packet) -> Option<(usize, u8)> {
        let mut pools = self.pools.iter().enumerate();
        pools.find_map(|(index, (pool, segment))| {
            (pool.id() == packet.pool_id()).then_some((index, *segment))
        })
    }

    /// The number of a source.
    #[inline]
    pub(crate) fn find(&self, shared: &Rc<Shared>) -> Option<u16> {
        let mut sources = self.sources.iter();
        let found = sources.position(|source| source.as_ref().is_some_and(|s| s.is(shared)));
        found.map(|index| index as u16)
    }

    /// A source by its number.
    #[inline]
    pub(crate) fn source(&mut self, index: u16) -> &mut Source {
        let source = self.sources[usize::from(index)].as_mut();
        source.expect("a source that was found is there until the port's next flush")
    }

    /// Our segments by those of a source.
    #[inline]
    pub(crate) fn segments(&self, source: u16) -> [u8; SEGMENTS_MAX] {
        let source = self.sources[usize::from(source)].as_ref();
        source.map_or([0; SEGMENTS_MAX], |source| source.segments)
    }

    /// Makes a port a source; its number.
    pub(crate) fn add_source(&mut self, shared: &Rc<Shared>, slots: u32) -> u16 {
        self.make_room(slots);
        let source = Source {
            shared: Rc::clone(shared),
            segments: [0; SEGMENTS_MAX],
            known: 0,
        };
        self.forget();
        let free = self.sources.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() - 1
        });
        self.sources[index] = Some(source);
        index as u16
    }

    pub(crate) fn set_pool(&mut self, slot: usize, pool: usize, buffer: InFlight) {
        self.owners[slot] = Owner::Pool(pool as u16, buffer);
    }

    #[inline]
    pub(crate) fn set_received(&mut self, slot: usize, held: Option<Held>) {
        self.owners[slot] = held.map_or(Owner::Nobody, |held| Owner::Source {
            source: held.source,
            first: held.first as u16,
            count: held.count as u16,
        });
    }

    /// Lets go of sources that are over, and so of their peers' memory.
    pub(crate) fn forget(&mut self) {
        for source in &mut self.sources {
            if source.as_ref().is_some_and(Source::is_over) {
                *source = None;
            }
        }
    }

    /// Takes home what a slot held; what is of a source when it does not follow `home` any more.
    #[inline]
    pub(crate) fn take_home(&mut self, slot: usize, home: &mut Held) {
        match std::mem::take(&mut self.owners[slot]) {
            Owner::Nobody => {}
            Owner::Pool(index, buffer) => {
                let mut one = Some(buffer);
                self.pools[usize::from(index)]
                    .0
                    .reclaim_burst(|| one.take());
            }
            Owner::Source {
                source,
                first,
                count,
            } => {
                let slots = self.source(source).shared.slots();
                let (first, count) = (u32::from(first), u32::from(count));
                let follows =
                    home.source == source && (home.first + home.count) & (slots - 1) == first;
                if follows && home.count > 0 {
                    home.count += count;
                } else {
                    let next = Held {
                        source,
                        first,
                        count,
                    };
                    self.give_back(std::mem::replace(home, next));
                }
            }
        }
    }

    /// Gives slots back to whom they came from.
    #[inline]
    pub(crate) fn give_back(&self, home: Held) {
        if home.count > 0 {
            let source = self.sources[usize::from(home.source)].as_ref();
            if let Some(source) = source {
                source.shared.give_taken(home.first, home.count);
            }
        }
    }

    /// Nothing will be returned any more: takes home what is out.
    pub(crate) fn take_all_home(&mut self) {
        let mut home = Held::default();
        for slot in 0..self.owners.len() {
            self.take_home(slot, &mut home);
        }
        self.give_back(home);
    }
}

impl Source {
    fn is(&self, shared: &Rc<Shared>) -> bool {
        Rc::ptr_eq(&self.shared, shared)
    }

    /// Whether its port has gone and nothing of it is out, here or elsewhere.
    fn is_over(&self) -> bool {
        self.shared.gone.get() && self.shared.nothing_is_held()
    }
}
