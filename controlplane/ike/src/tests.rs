//! Two engines joined back to back under a virtual clock.

mod exchanges;
mod harness;
