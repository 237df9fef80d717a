//! Ports: which two sides make one, under which name, and what each lays open to the other.
//!
//! Pure state. A side is an object of the capability table, so a port's end is the end of a
//! capability, however it came about: left, dropped, or its holder died. A port has at most two
//! sides in its life; its name is free again as soon as the first of them goes, so that a peer that
//! was restarted can create it anew while the survivor still looks at what is left.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use libexo::abi::port::{PortFlags, SEGMENTS_MAX};
use libexo::abi::status::Status;
use libexo::abi::tap::{TAP_PREFIX, tap_name};
use libexo::abi::wire::{ErrorCode, PortName};

use crate::bell::Bell;
use crate::captable::{DomainId, ObjectId};

/// A side by the object that stands for it.
#[derive(Debug)]
pub struct Side {
    /// Who holds it.
    pub domain: DomainId,
    /// Its holder's capability.
    pub handle: u64,
    /// Which port.
    pub port: u64,
    /// 0 created the port, 1 joined it.
    pub number: usize,
    /// What it asked for.
    pub flags: PortFlags,
    /// Handles of the units that the peer may read; the first is the port's own segment.
    pub segments: Vec<u64>,
    /// What this side got of the peer's segments: a handle for each index.
    pub given: [u64; SEGMENTS_MAX],
}

/// What two sides share.
#[derive(Debug)]
pub struct Port {
    /// Its name.
    pub name: PortName,
    /// Slots of its rings.
    pub ring_log2: u32,
    /// What its creator asked for.
    pub flags: PortFlags,
    /// Bell `n` is the one that side `n` sleeps on.
    pub bells: [Bell; 2],
    sides: [SideState; 2],
    /// Who taps it.
    tapped_by: Option<DomainId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SideState {
    Empty,
    Here(ObjectId),
    Gone,
}

impl Port {
    /// The side `number`, unless it has not come or has gone.
    pub fn side(&self, number: usize) -> Result<ObjectId, ErrorCode> {
        match self.sides[number] {
            SideState::Here(object) => Ok(object),
            SideState::Empty => Err(ErrorCode::NotReady),
            SideState::Gone => Err(ErrorCode::Revoked),
        }
    }

    /// Whether somebody taps it.
    pub fn is_tapped(&self) -> bool {
        self.tapped_by.is_some()
    }

    /// What side `number` reads in its status table.
    pub fn status(&self, number: usize) -> Status {
        let mut status = Status::LIVE;
        let peer = self.sides[1 - number];
        status.set(Status::PEER_JOINED, peer != SideState::Empty);
        status.set(Status::PEER_GONE, peer == SideState::Gone);
        status.set(Status::TAP, self.tapped_by.is_some());
        status
    }
}

/// All ports.
#[derive(Debug, Default)]
pub struct Ports {
    ports: BTreeMap<u64, Port>,
    names: HashMap<PortName, u64>,
    sides: HashMap<ObjectId, Side>,
    last: u64,
}

impl Ports {
    /// Sides in all.
    pub fn sides(&self) -> usize {
        self.sides.len()
    }

    /// The side that an object stands for.
    pub fn side(&self, object: ObjectId) -> Option<&Side> {
        self.sides.get(&object)
    }

    /// The same, to be changed.
    pub fn side_mut(&mut self, object: ObjectId) -> Option<&mut Side> {
        self.sides.get_mut(&object)
    }

    /// A port by number.
    pub fn port(&self, port: u64) -> Option<&Port> {
        self.ports.get(&port)
    }

    /// The port with the next number, also where there is none any more with the last.
    pub fn next_port(&self, after: u64) -> Option<(u64, &Port)> {
        let beyond = (Bound::Excluded(after), Bound::Unbounded);
        let (number, port) = self.ports.range(beyond).next()?;
        Some((*number, port))
    }

    /// A port by name: its number, as long as none of its sides has gone.
    pub fn named(&self, name: &PortName) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// Whether a port could be created under this name.
    pub fn may_create(&self, name: &PortName) -> Result<(), ErrorCode> {
        match self.named(name) {
            Some(_) => Err(ErrorCode::Exists),
            None => Ok(()),
        }
    }

    /// The port that waits for a second side under this name.
    pub fn may_join(&self, name: &PortName) -> Result<u64, ErrorCode> {
        let port = self.named(name).ok_or(ErrorCode::NotFound)?;
        let waits = self
            .ports
            .get(&port)
            .is_some_and(|p| p.sides[1] == SideState::Empty);
        if waits {
            Ok(port)
        } else {
            Err(ErrorCode::Busy)
        }
    }

    /// A new port with its first side, after [`Ports::may_create`].
    pub fn create(
        &mut self,
        object: ObjectId,
        holder: Holder,
        name: PortName,
        ring_log2: u32,
        bells: [Bell; 2],
    ) {
        self.last += 1;
        self.names.insert(name, self.last);
        self.ports.insert(
            self.last,
            Port {
                name,
                ring_log2,
                flags: holder.flags,
                bells,
                sides: [SideState::Here(object), SideState::Empty],
                tapped_by: None,
            },
        );
        self.sides.insert(object, holder.side(self.last, 0));
    }

    /// The second side of a port, after [`Ports::may_join`].
    pub fn join(&mut self, object: ObjectId, holder: Holder, port: u64) {
        if let Some(state) = self.ports.get_mut(&port) {
            state.sides[1] = SideState::Here(object);
            self.sides.insert(object, holder.side(port, 1));
        }
    }

    /// Ends a side. The side, and the other one where it is still here.
    pub fn leave(&mut self, object: ObjectId) -> Option<(Side, Option<ObjectId>)> {
        let side = self.sides.remove(&object)?;
        let port = self.ports.get_mut(&side.port)?;
        port.sides[side.number] = SideState::Gone;
        let peer = port.side(1 - side.number).ok();
        if self.names.get(&port.name) == Some(&side.port) {
            self.names.remove(&port.name);
        }
        if peer.is_none() {
            self.ports.remove(&side.port);
        }
        Some((side, peer))
    }

    /// The port that `by` may tap, or cease to tap, under this name: nobody else taps it, and it is
    /// no tap itself.
    pub fn may_tap(&self, name: &PortName, by: DomainId) -> Result<u64, ErrorCode> {
        tap_name(name, 0).ok_or(ErrorCode::Unsupported)?;
        let number = self.named(name).ok_or(ErrorCode::NotFound)?;
        let port = self.ports.get(&number).ok_or(ErrorCode::NotFound)?;
        match port.tapped_by {
            Some(other) if other != by => Err(ErrorCode::Busy),
            _ => Ok(number),
        }
    }

    /// Begins or ends a tap. The sides that must know.
    pub fn tap(&mut self, port: u64, by: Option<DomainId>) -> Vec<ObjectId> {
        let Some(port) = self.ports.get_mut(&port) else {
            return Vec::new();
        };
        port.tapped_by = by;
        (0..2).filter_map(|n| port.side(n).ok()).collect()
    }

    /// Ports that a domain taps.
    pub fn tapped_by(&self, domain: DomainId) -> Vec<u64> {
        let taps = self.ports.iter();
        taps.filter(|(_, port)| port.tapped_by == Some(domain))
            .map(|(number, _)| *number)
            .collect()
    }

    /// Whether `domain` holds the side that `name` is the tap of.
    pub fn is_tapped_side(&self, domain: DomainId, name: &PortName) -> bool {
        let tapped = || {
            let (port, number) = name.as_str().strip_prefix(TAP_PREFIX)?.rsplit_once('/')?;
            let number = ["0", "1"].iter().position(|n| *n == number)?;
            let port = self.ports.get(&self.named(&PortName::new(port)?)?)?;
            port.tapped_by?;
            let side = self.sides.get(&port.side(number).ok()?)?;
            Some(side.domain == domain)
        };
        tapped().unwrap_or(false)
    }

    /// Flags as the peer of `side` sees them: sharing is the side's own word, trust takes both.
    pub fn flags_of(&self, side: &Side) -> PortFlags {
        let peer = self.ports.get(&side.port).and_then(|port| {
            let peer = port.side(1 - side.number).ok()?;
            Some(self.sides.get(&peer)?.flags)
        });
        let both = side.flags & peer.unwrap_or(PortFlags::empty());
        (side.flags & PortFlags::SHARE) | (both & PortFlags::TRUSTED)
    }
}

/// Who takes a side, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// The domain.
    pub domain: DomainId,
    /// Its capability on the side.
    pub handle: u64,
    /// Its segment.
    pub unit: u64,
    /// What it asks for.
    pub flags: PortFlags,
}

impl Holder {
    fn side(self, port: u64, number: usize) -> Side {
        Side {
            domain: self.domain,
            handle: self.handle,
            port,
            number,
            flags: self.flags,
            segments: vec![self.unit],
            given: [0; SEGMENTS_MAX],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(n: u64) -> ObjectId {
        ObjectId::from_raw(n)
    }

    fn holder(domain: u64, flags: PortFlags) -> Holder {
        Holder {
            domain: DomainId::from_raw(domain),
            handle: 10 * domain,
            unit: 100 * domain,
            flags,
        }
    }

    fn joined(a: PortFlags, b: PortFlags) -> (Ports, PortName) {
        let mut ports = Ports::default();
        let name = PortName::new("demo").expect("a name");
        let bells = || [Bell::new().expect("a pipe"), Bell::new().expect("a pipe")];
        assert_eq!(ports.may_join(&name), Err(ErrorCode::NotFound));
        ports.create(object(1), holder(1, a), name, 12, bells());
        assert_eq!(ports.may_create(&name), Err(ErrorCode::Exists));
        let port = ports.may_join(&name).expect("it waits");
        ports.join(object(2), holder(2, b), port);
        assert_eq!(ports.may_join(&name), Err(ErrorCode::Busy));
        (ports, name)
    }

    #[test]
    fn a_port_ends_side_by_side() {
        let (mut ports, name) = joined(PortFlags::empty(), PortFlags::empty());
        let (gone, peer) = ports.leave(object(1)).expect("it was there");
        assert_eq!((gone.number, peer), (0, Some(object(2))));
        assert_eq!(ports.may_create(&name), Ok(()));
        let number = ports.side(object(2)).expect("the survivor").port;
        let port = ports.port(number).expect("half a port");
        let expected = Status::LIVE | Status::PEER_JOINED | Status::PEER_GONE;
        assert_eq!(port.status(1), expected);
        assert_eq!(port.side(0), Err(ErrorCode::Revoked));
        assert!(ports.leave(object(2)).expect("it was there").1.is_none());
        assert!(ports.leave(object(2)).is_none());
        assert!(ports.ports.is_empty() && ports.names.is_empty() && ports.sides.is_empty());
    }

    #[test]
    fn trust_takes_both_and_sharing_one() {
        let both = PortFlags::TRUSTED | PortFlags::SHARE;
        let (ports, _) = joined(both, PortFlags::TRUSTED);
        let flags = |n| ports.flags_of(ports.side(object(n)).expect("a side"));
        assert_eq!((flags(1), flags(2)), (both, PortFlags::TRUSTED));
        let (ports, _) = joined(both, PortFlags::empty());
        let flags = |n| ports.flags_of(ports.side(object(n)).expect("a side"));
        assert_eq!((flags(1), flags(2)), (PortFlags::SHARE, PortFlags::empty()));
    }

    #[test]
    fn a_tap_is_for_the_side_that_it_names() {
        let (mut ports, name) = joined(PortFlags::empty(), PortFlags::empty());
        let (first, second) = (DomainId::from_raw(1), DomainId::from_raw(2));
        let tap = PortName::new("tap:demo/0").expect("a name");
        assert!(!ports.is_tapped_side(first, &tap));
        let port = ports.named(&name).expect("the port");
        assert_eq!(ports.tap(port, Some(second)), [object(1), object(2)]);
        assert!(ports.is_tapped_side(first, &tap));
        assert!(!ports.is_tapped_side(second, &tap));
        assert!(
            ports
                .port(port)
                .expect("it")
                .status(1)
                .contains(Status::TAP)
        );
        assert_eq!(ports.tapped_by(second), [port]);
        assert_eq!(ports.may_tap(&name, second), Ok(port));
        assert_eq!(ports.may_tap(&name, first), Err(ErrorCode::Busy));
        assert_eq!(ports.may_tap(&tap, second), Err(ErrorCode::Unsupported));
    }
}
