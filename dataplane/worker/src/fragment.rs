//! IPv4 fragments of packets that are longer than what they go through (RFC 791 §2.3, RFC 4301 §8.2.1).

use crate::account::WorkerDrop;
use crate::packet::Packet;
use crate::worker::Worker;
use stats::Worker as Row;
use wire::{checksum, ipv4};

/// More fragments; don't fragment and the reserved bit are clear in what is fragmented.
const MORE: u16 = 0x2000;
/// Bits of the offset, which counts eight bytes.
const OFFSET: u16 = 0x1fff;

impl Worker {
    /// Cuts an IPv4 packet that may be fragmented into packets of at most `mtu` bytes and passes each to `each`. Packets with IP
    /// options are dropped: which of them to copy is between hosts that no longer exist.
    pub(crate) fn fragment(&mut self, packet: Packet, mtu: u16, each: impl Fn(&mut Self, Packet)) {
        let header_len = ipv4::MIN_HEADER_LEN;
        let room = usize::from(mtu).saturating_sub(header_len) & !7;
        let fragmentable = ipv4::Ipv4::parse(&packet).is_ok_and(|ip| ip.header_len() == header_len);
        let payload_len = packet.len().saturating_sub(header_len);
        if !fragmentable || room == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        let count = payload_len.div_ceil(room);
        // All or none: the rest of a packet is of no use.
        if self.pool.available() < count {
            return self.drop_packet(packet, WorkerDrop::UmemEmpty);
        }
        let word = u16::from_be_bytes([packet[6], packet[7]]);
        let mut made = 0;
        for (index, payload) in packet[header_len..].chunks(room).enumerate() {
            let Some(mut frame) = self.pool.alloc() else { break };
            if frame.set_len(header_len + payload.len()).is_none() {
                self.free(frame);
                break;
            }
            frame.mark = packet.0.mark;
            let last = index + 1 == count;
            let offset = (word & OFFSET) + (index * room / 8) as u16;
            let flags = if last { word & MORE } else { MORE };
            let (header, body) = frame.data_mut().split_at_mut(header_len);
            header.copy_from_slice(&packet[..header_len]);
            header[2..4].copy_from_slice(&((header_len + payload.len()) as u16).to_be_bytes());
            header[6..8].copy_from_slice(&(flags | offset & OFFSET).to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum::of(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            body.copy_from_slice(payload);
            // The first one is the packet itself.
            self.account.add(Row::Generated, u64::from(made > 0));
            made += 1;
            each(self, Packet(frame));
        }
        if made == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        self.free(packet.0);
    }
}
