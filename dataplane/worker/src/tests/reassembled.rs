//! Packets that the kernel reassembled.

use super::bed::*;
use crate::{Limits, WorkerDrop};
use ipsec::drop_cause::DropCause;
use ipsec::selector::Action;
use stats::Worker as Row;
use wire::protocol;

/// ESP of an SPI to A, of nobody who knows the key.
fn forged(spi: u32, len: usize) -> Vec<u8> {
    let mut body = spi.to_be_bytes().to_vec();
    body.extend(1u32.to_be_bytes());
    body.resize(len, 7);
    ip_packet(ip(B.wan4), ip(A.wan4), protocol::ESP, 64, &body)
}

/// However many there are, a worker holds `waiting_packets` of them; the others are dropped, and it counts each.
#[test]
fn a_worker_holds_a_bounded_number_of_them_and_counts_the_others() {
    let limits = Limits { waiting_packets: 12, ..BedConfig::default().limits };
    let mut bed = Bed::new(BedConfig { limits, ..Default::default() });
    bed.policies(Action::Protect);
    let (spi_a, spi_b) = bed.allocate(0, 0);
    bed.add(1, Outer::V4, spi_a, spi_b);
    bed.steps(2);
    // The longest that IPv4 has.
    let packet = forged(spi_a.get(), 65_515);
    for round in 1..=3 {
        for _ in 0..1000 {
            bed.a.dataplane.inject(packet.clone());
        }
        bed.steps(2);
        assert_eq!(bed.a.drops(WorkerDrop::ReassembledFull), 988 * round);
        assert_eq!(bed.a.sum(Row::Received), 1000 * round);
        assert_eq!(bed.a.sum(Row::ReceivedBytes), 1000 * round * packet.len() as u64);
        assert_eq!(bed.a.all_drops(), 1000 * round);
        bed.a.assert_no_frame_is_missing();
    }
}

/// Those of no SA that could be are counted as what they are, whatever worker their SPI would name.
#[test]
fn what_nobody_owns_is_counted() {
    let mut bed = Bed::new(BedConfig { workers: 2, ..Default::default() });
    bed.policies(Action::Protect);
    bed.steps(2);
    for (n, spi) in [1, 255, 256, 0x0400_0040, 0xffff_ffff].into_iter().enumerate() {
        bed.a.dataplane.inject(forged(spi, 60));
        bed.steps(2);
        assert_eq!(bed.a.drops(DropCause::UnknownSpi), n as u64 + 1, "{spi:#x}");
        assert_eq!(bed.a.sum(Row::BadSpiPackets), n as u64 + 1);
    }
    // For another address than ours: neither opened nor forwarded.
    let mut elsewhere = forged(256, 60);
    elsewhere[16..20].copy_from_slice(&[203, 0, 113, 9]);
    elsewhere[10..12].fill(0);
    let sum = wire::checksum::of(&elsewhere[..20]);
    elsewhere[10..12].copy_from_slice(&sum.to_be_bytes());
    bed.a.dataplane.inject(elsewhere);
    bed.a.dataplane.inject(vec![0x45; 3]);
    bed.steps(2);
    assert_eq!(bed.a.drops(WorkerDrop::NotOurAddress), 1);
    assert_eq!(bed.a.drops(DropCause::MalformedHeader), 1);
    assert_eq!((bed.a.sum(Row::Received), bed.a.all_drops()), (7, 7));
}
