//! What must not compile: the ownership of packets is the compiler's to keep.

use libexo::packet::{Mempool, Packet};
use libexo::port::{Port, RxPacket, Waiting};

/// Each file under `ui` fails for the reason in the `.stderr` beside it, and for no other. The
/// first run compiles libexo once more, from the same registry cache; a new compiler may say the
/// same things in other words: `TRYBUILD=overwrite cargo test -p libexo --test compile_fail`.
#[test]
fn ownership_is_checked_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

/// Has one method for a type that can't be sent to another thread, and two, of which neither can be
/// chosen, for one that can.
trait StaysInItsThread<Which> {
    const DOES: bool = true;
}

impl<T> StaysInItsThread<()> for T {}

impl<T: Send> StaysInItsThread<u8> for T {}

/// This compiles: so none of them is `Send`.
#[test]
fn nothing_of_the_packet_path_leaves_its_thread() {
    const ALL: [bool; 5] = [
        <Packet as StaysInItsThread<_>>::DOES,
        <Mempool as StaysInItsThread<_>>::DOES,
        <RxPacket as StaysInItsThread<_>>::DOES,
        <Port as StaysInItsThread<_>>::DOES,
        <Waiting as StaysInItsThread<_>>::DOES,
    ];
    assert_eq!(ALL, [true; 5]);
}
