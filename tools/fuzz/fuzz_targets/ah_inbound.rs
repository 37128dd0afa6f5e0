//! AH as received, and what a sender seals.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../dataplane/ipsec/tests/fuzz/entries.rs"]
#[allow(dead_code, reason = "each target has one of the entries")]
mod entries;

fuzz_target!(|bytes: &[u8]| entries::ah_inbound(bytes));
