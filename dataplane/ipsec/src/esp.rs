//! ESP (RFC 4303) over one SA: the runtime forms of SAs, and what is done to a packet.
//!
//! | module | what |
//! |---|---|
//! | [`inbound`] | the receiving SA: sizes, replay, trailer, tunnel strip, selectors |
//! | [`outbound`] | the sending SA: sequence numbers, padding, tunnel headers |
//! | `suite` | the keyed transforms, chosen once when an SA is installed |
//! | [`transform`], `cbc_mac`, `ccm`, `gmac` | the transforms beside AES-GCM |
//! | `serial` | ESP over those, packet by packet |

mod cbc_mac;
mod ccm;
pub(crate) mod gmac;
pub mod inbound;
pub mod outbound;
pub(crate) mod serial;
pub(crate) mod suite;
pub mod transform;

/// How many packets go through the stages together: enough for the batched cipher to fill its lanes,
/// few enough that their state stays in the first-level cache.
pub(crate) const BURST: usize = 32;

/// Which packets of a burst are alone with their SA: neither the one before nor the one behind has the same. A bit for each, the first lowest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Alone {
    bits: u32,
    count: u32,
}

// A bit each.
const _: () = assert!(BURST == u32::BITS as usize);

impl Alone {
    /// Adds the next packets, which have one SA.
    #[inline]
    pub(crate) fn add_run(&mut self, packets: usize) {
        self.bits |= u32::from(packets == 1).checked_shl(self.count).unwrap_or(0);
        self.count += packets as u32;
    }

    /// Takes the first of those that are left.
    #[inline]
    pub(crate) fn next_is_alone(&mut self) -> bool {
        let alone = self.bits & 1 != 0;
        self.bits >>= 1;
        alone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet is alone that is a run by itself, in a whole burst and when nothing is left.
    #[test]
    fn runs_of_one_are_alone() {
        let runs = [1, 2, 1, 1, 3, 23, 1];
        let mut alone = Alone::default();
        runs.iter().for_each(|run| alone.add_run(*run));
        for run in runs {
            (0..run).for_each(|_| assert_eq!(alone.next_is_alone(), run == 1));
        }
        assert!(!alone.next_is_alone());
        alone.add_run(1);
    }
}
