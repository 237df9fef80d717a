//! The words in which the table is spoken to: identities, views, events, refusals.
//!
//! Views are copies taken at the moment of the call; nothing here borrows from the table.

#![forbid(unsafe_code)]

use libexo::abi::status;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, Rights};

/// A domain: slot and generation, never zero. A removed domain's identity is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(u64);

/// An object: slot and generation, never zero. A released object's identity is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(u64);

macro_rules! identity {
    ($name:ident) => {
        impl $name {
            pub(super) fn new(index: u32, generation: u32) -> Self {
                Self(status::handle(index, generation))
            }

            pub(super) fn split(self) -> (u32, u32) {
                status::split_handle(self.0)
            }

            /// As one word, for a log, an event token or the wire.
            pub fn raw(self) -> u64 {
                self.0
            }

            /// Back from one word. Whether it names anything is checked by whoever uses it.
            pub fn from_raw(raw: u64) -> Self {
                Self(raw)
            }

            /// The slot: dense and below the table's limit, so it can index an array beside it.
            pub fn index(self) -> u32 {
                self.split().0
            }
        }
    };
}
identity!(DomainId);
identity!(ObjectId);

/// How much a domain may be charged with at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Frames of its objects, in every state until the frames are free again.
    pub frames: u64,
    /// Capabilities that it holds.
    pub capabilities: u32,
    /// Port objects that it made.
    pub ports: u32,
}

/// Who a domain is: as the kernel said, when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// When the process started (field 22 of `/proc/PID/stat`), since a pid alone is used again.
    pub pid_start: u64,
    /// Its limits.
    pub quota: Quota,
}

/// Where a domain is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DomainState {
    /// Its session lives.
    Live = 1,
    /// It ended and still holds capabilities: death steps are due.
    Dying = 2,
    /// It holds nothing, but is still charged for objects that are not released.
    Dead = 3,
}

/// What the table knows of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainView {
    /// Which domain.
    pub id: DomainId,
    /// Who it is, and its limits.
    pub info: DomainInfo,
    /// Where it is in its life.
    pub state: DomainState,
    /// Frames charged to it.
    pub frames: u64,
    /// Capabilities that it holds.
    pub capabilities: u32,
    /// Port objects charged to it.
    pub ports: u32,
    /// Objects charged to it, ports among them.
    pub objects: u32,
}

/// Where an object is in its life. A free one has no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectState {
    /// Charged, and a job makes it.
    Binding = 1,
    /// It can be used.
    Bound = 2,
    /// Its last capability went: a job takes it apart.
    Unbinding = 3,
    /// Taken apart, but something in the kernel still holds its frames.
    Pinned = 4,
}

impl ObjectState {
    /// Every state, in the order of their numbers.
    pub const ALL: [ObjectState; 4] = [
        ObjectState::Binding,
        ObjectState::Bound,
        ObjectState::Unbinding,
        ObjectState::Pinned,
    ];
}

/// A new object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// What it is.
    pub kind: ObjectKind,
    /// Frames that its owner is charged for; zero for a port.
    pub frames: u32,
    /// The pages behind it, if there are any.
    pub page: Option<PageKind>,
    /// The caller's own word, never interpreted here.
    pub tag: u64,
    /// It exists already: begin as [`ObjectState::Bound`], not [`ObjectState::Binding`].
    pub bound: bool,
}

/// What the table knows of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectView {
    /// Which object.
    pub id: ObjectId,
    /// What it is.
    pub kind: ObjectKind,
    /// Where it is in its life.
    pub state: ObjectState,
    /// Its frames.
    pub frames: u32,
    /// The pages behind it.
    pub page: Option<PageKind>,
    /// Who is charged for it.
    pub owner: DomainId,
    /// Capabilities that name it.
    pub holders: u32,
    /// The caller's own word.
    pub tag: u64,
}

/// A capability that was checked, or that an iteration met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapView {
    /// Its holder's name for it.
    pub handle: u64,
    /// Its holder.
    pub holder: DomainId,
    /// What its holder may do.
    pub rights: Rights,
    /// What it names.
    pub object: ObjectView,
}

/// What a change made true and the caller has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A capability is gone, by drop, revocation or death: write its holder's status word.
    CapGone {
        /// Who held it.
        holder: DomainId,
        /// The handle, stale from now on.
        handle: u64,
        /// What it named.
        object: ObjectId,
    },
    /// An object's last capability is gone. Take it apart, then call
    /// [`Table::object_released`](super::Table::object_released) or
    /// [`Table::object_pinned`](super::Table::object_pinned).
    Unbind {
        /// As it is now: [`ObjectState::Unbinding`], without holders.
        object: ObjectView,
        /// It was still being bound: the job that binds it has to end first.
        was_binding: bool,
    },
    /// A dead domain's last charge is gone, and its record with it.
    DomainGone(DomainId),
}

/// Whether a walk that works in steps has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a walk that has more to do must be called again"]
pub enum Progress {
    /// The budget is used up: call again.
    More,
    /// Nothing is left.
    Done,
}

/// Why the table refused a change; it is then as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A handle that is stale, guessed or another domain's.
    #[error("no such handle: it is stale, was never granted, or belongs to another domain")]
    NoSuchHandle,
    /// More rights than the capability has.
    #[error("the capability lacks the right that this operation needs")]
    Rights,
    /// More than the domain's quota of the thing named.
    #[error("the domain's quota of {0} is used up")]
    QuotaExceeded(&'static str),
    /// The table has no slot for one more of the thing named.
    #[error("the table has no room for more {0}")]
    TableFull(&'static str),
    /// The domain is gone, or is ending and cannot be given anything.
    #[error("the domain is gone or ending")]
    NoSuchDomain,
    /// The object is gone.
    #[error("the object is gone")]
    NoSuchObject,
    /// The object's state does not allow the change.
    #[error("the object is in the state {0:?}, which does not allow this")]
    WrongState(ObjectState),
}

impl From<TableError> for ErrorCode {
    fn from(error: TableError) -> Self {
        match error {
            TableError::NoSuchHandle => ErrorCode::NoSuchHandle,
            TableError::Rights => ErrorCode::Rights,
            TableError::QuotaExceeded(_) => ErrorCode::Quota,
            TableError::TableFull(_) => ErrorCode::TableFull,
            TableError::NoSuchDomain | TableError::NoSuchObject => ErrorCode::Revoked,
            TableError::WrongState(_) => ErrorCode::Busy,
        }
    }
}

/// Totals of the whole table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Domain records: live, dying and dead.
    pub domains: u32,
    /// Capabilities that somebody holds.
    pub capabilities: u32,
    /// Dropped capabilities that stay in the derivation tree as its branching points.
    pub ghosts: u32,
    /// Slots that will never be used again, since their generations are used up.
    pub retired: u32,
    /// Objects, by [`ObjectState`] in the order of [`ObjectState::ALL`].
    pub objects: [u32; 4],
    /// Frames of those objects, in the same order.
    pub frames: [u64; 4],
}

impl Ledger {
    /// Objects in every state.
    pub fn objects_total(&self) -> u32 {
        self.objects.iter().sum()
    }

    /// Frames that some domain is charged for, pinned ones among them.
    pub fn frames_owned(&self) -> u64 {
        self.frames.iter().sum()
    }

    /// Frames that wait for the kernel to let go.
    pub fn frames_pinned(&self) -> u64 {
        self.frames[3]
    }
}

/// An invariant that does not hold: the table must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the capability table is damaged: {what} (slot {slot}); start exod with a new table")]
pub struct AuditError {
    /// The invariant.
    pub what: &'static str,
    /// The slot, in the array that `what` speaks of.
    pub slot: u32,
}

/// Why a table could not be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("the kernel refused memory for the capability table: {0}")]
    Kernel(#[from] std::io::Error),
    /// Limits that the layout cannot hold.
    #[error("limits of the capability table must be 2 to 16,777,216 slots each")]
    Limits,
    /// Not a table, or another version's.
    #[error("not a capability table of this version of exod: {0}; start with a new table")]
    NotATable(&'static str),
    /// It was one.
    #[error(transparent)]
    Damaged(#[from] AuditError),
}
