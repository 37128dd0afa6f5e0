//! Any datagram parses or is refused; every accessor of what parses may be called; what a parsed message emits parses to the
//! same again.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../controlplane/ike/tests/walk/mod.rs"]
mod walk;

fuzz_target!(|datagram: &[u8]| {
    if let Some(once) = walk::walk(datagram) {
        assert_eq!(walk::walk(&once).as_ref(), Some(&once));
    }
});
