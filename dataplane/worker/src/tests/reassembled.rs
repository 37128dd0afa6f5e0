//! Packets that the kernel reassembled.

use super::bed::*;
use crate::{Limits, Refusal};
use ipsec::selector::Action;
use stats::Worker as Row;
use wire::protocol;

/// However many there are, a worker holds `waiting_packets` of them; the others are refused while it is behind.
#[test]
fn a_worker_holds_a_bounded_number_of_them() {
    let limits = Limits { waiting_packets: 12, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.add(1, Outer::V4, spi_a, spi_b);
    bed.steps(2);
    // The longest that IPv4 has, of nobody who knows the key.
    let mut body = spi_a.get().to_be_bytes().to_vec();
    body.extend(1u32.to_be_bytes());
    body.resize(65_515, 7);
    let packet = ip_packet(ip(B.wan4), ip(A.wan4), protocol::ESP, 64, &body);
    for round in 1..=3 {
        let mut taken = 0;
        for _ in 0..1000 {
            match bed.a.dataplane.inject(packet.clone()) {
                Ok(()) => taken += 1,
                Err(refusal) => assert!(matches!(refusal, Refusal::RingFull), "{refusal}"),
            }
        }
        assert_eq!(taken, 12);
        bed.steps(2);
        assert_eq!(bed.a.sum(Row::Received), 12 * round);
        assert_eq!(bed.a.all_drops(), 12 * round);
        bed.a.assert_no_frame_is_missing();
    }
}
