//! ESP as received, and what an authentic peer can put inside.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../dataplane/ipsec/tests/fuzz/entries.rs"]
#[allow(dead_code, reason = "each target has one of the entries")]
mod entries;

fuzz_target!(|bytes: &[u8]| entries::esp_inbound(bytes));
