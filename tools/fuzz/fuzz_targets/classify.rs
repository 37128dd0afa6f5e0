//! Where ESP or AH lies in a packet is inside it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../dataplane/ipsec/tests/fuzz/entries.rs"]
#[allow(dead_code, reason = "each target has one of the entries")]
mod entries;

fuzz_target!(|bytes: &[u8]| entries::classify(bytes));
