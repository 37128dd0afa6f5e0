//! Fragments of packets that are longer than what they go through: of IPv4 packets before encryption (RFC 791 §2.3, RFC 4301
//! §8.2.1), and of protected packets whose content cannot be made smaller (RFC 2473 §7.1).

use crate::account::WorkerDrop;
use crate::forwarding::NextHop;
use crate::packet::Packet;
use crate::worker::Worker;
use ipsec::sad::Slot;
use stats::Worker as Row;
use wire::{checksum, ipv4, ipv6};

/// More fragments; don't fragment and the reserved bit are clear in what is fragmented.
const MORE: u16 = 0x2000;
/// Bits of the offset, which counts eight bytes.
const OFFSET: u16 = 0x1fff;

/// The longest IPv4 header.
const MAX_HEADER_LEN: usize = 60;

/// Bytes of an IPv6 fragment header (RFC 8200 §4.5), and its number.
const FRAGMENT_HEADER_LEN: usize = 8;
const FRAGMENT_HEADER: u8 = 44;

impl Worker {
    /// Cuts an IPv4 packet that may be fragmented into packets of at most `mtu` bytes and passes each to `each`.
    pub(crate) fn fragment(&mut self, packet: Packet, mtu: u16, each: impl Fn(&mut Self, Packet)) {
        let Ok(ip) = ipv4::Ipv4::parse(&packet) else {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        };
        let (first_len, end) = (ip.header_len(), ip.total_len());
        let (mut later, mut later_len) = ([0; MAX_HEADER_LEN], 0);
        if let Some(first) = packet.get(..first_len) {
            later_len = later_header(first, &mut later);
        }
        let payload_len = end.saturating_sub(first_len);
        let room_in_first = usize::from(mtu).saturating_sub(first_len) & !7;
        let room = usize::from(mtu).saturating_sub(later_len) & !7;
        if room_in_first == 0 || room == 0 || later_len == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        let count = 1 + payload_len.saturating_sub(room_in_first).div_ceil(room);
        // All or none: the rest of a packet is of no use.
        if self.pool.available() < count {
            return self.drop_packet(packet, WorkerDrop::UmemEmpty);
        }
        let word = u16::from_be_bytes([packet[6], packet[7]]);
        let mut from = 0;
        for index in 0..count {
            let (head, room) = match index {
                0 => (packet.get(..first_len).unwrap_or_default(), room_in_first),
                _ => (later.get(..later_len).unwrap_or_default(), room),
            };
            let to = (from + room).min(payload_len);
            let body = packet.get(first_len + from..first_len + to).unwrap_or_default();
            let Some(mut frame) = self.pool.alloc_for(head.len() + body.len()) else { break };
            if frame.set_len(head.len() + body.len()).is_none() {
                self.free(frame);
                break;
            }
            frame.mark = packet.0.mark;
            let offset = (word & OFFSET) + (from / 8) as u16;
            let flags = if to == payload_len { word & MORE } else { MORE };
            let (header, rest) = frame.data_mut().split_at_mut(head.len());
            header.copy_from_slice(head);
            header[2..4].copy_from_slice(&((head.len() + body.len()) as u16).to_be_bytes());
            header[6..8].copy_from_slice(&(flags | offset & OFFSET).to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum::of(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            rest.copy_from_slice(body);
            // The first one is the packet itself.
            self.account.add(Row::Generated, u64::from(index > 0));
            from = to;
            each(self, Packet(frame));
        }
        if from == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        self.free(packet.0);
    }

    /// Sends a protected packet that the path takes in fragments only.
    #[cold]
    pub(crate) fn send_oversize(&mut self, packet: Packet, sa: Slot, hop: NextHop) {
        let mtu = self.outbound_sad.get(sa).map_or(0, |sa| sa.path_mtu());
        if packet.first().is_some_and(|b| b >> 4 == 4) {
            return self.fragment(packet, mtu, |worker, fragment| worker.send(fragment, hop));
        }
        self.fragment_v6(packet, mtu, hop);
    }

    /// Cuts an IPv6 packet of our own, without extension headers, into fragments of at most `mtu` bytes (RFC 8200 §4.5).
    fn fragment_v6(&mut self, packet: Packet, mtu: u16, hop: NextHop) {
        const HEADERS: usize = ipv6::HEADER_LEN + FRAGMENT_HEADER_LEN;
        let room = usize::from(mtu).saturating_sub(HEADERS) & !7;
        let Some((header, payload)) = packet.split_first_chunk::<{ ipv6::HEADER_LEN }>() else {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        };
        if room == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        let count = payload.len().div_ceil(room);
        if self.pool.available() < count {
            return self.drop_packet(packet, WorkerDrop::UmemEmpty);
        }
        let (protocol, identification) = (header[6], self.next_fragment.to_be_bytes());
        self.next_fragment = self.next_fragment.wrapping_add(1);
        let mut header = *header;
        header[6] = FRAGMENT_HEADER;
        let mut fragments = 0;
        for (index, body) in payload.chunks(room).enumerate() {
            let Some(mut frame) = self.pool.alloc_for(HEADERS + body.len()) else { break };
            if frame.set_len(HEADERS + body.len()).is_none() {
                self.free(frame);
                break;
            }
            frame.mark = packet.0.mark;
            header[4..6]
                .copy_from_slice(&((FRAGMENT_HEADER_LEN + body.len()) as u16).to_be_bytes());
            let more = u16::from(index + 1 < count);
            let [high, low] = ((index * room) as u16 | more).to_be_bytes();
            let [a, b, c, d] = identification;
            let (front, rest) = frame.data_mut().split_at_mut(HEADERS);
            front[..ipv6::HEADER_LEN].copy_from_slice(&header);
            front[ipv6::HEADER_LEN..].copy_from_slice(&[protocol, 0, high, low, a, b, c, d]);
            rest.copy_from_slice(body);
            self.account.add(Row::Generated, u64::from(fragments > 0));
            fragments += 1;
            self.send(Packet(frame), hop);
        }
        if fragments == 0 {
            return self.drop_packet(packet, WorkerDrop::LinkTooSmall);
        }
        self.free(packet.0);
    }
}

/// Writes the header of all fragments but the first: with those options only that say so themselves (RFC 791 §3.1, the copied
/// flag). Its length; 0 for options that are malformed.
fn later_header(first: &[u8], out: &mut [u8; MAX_HEADER_LEN]) -> usize {
    const COPIED: u8 = 0x80;
    let (Some(fixed), Some(mut options)) =
        (first.get(..ipv4::MIN_HEADER_LEN), first.get(ipv4::MIN_HEADER_LEN..))
    else {
        return 0;
    };
    out[..ipv4::MIN_HEADER_LEN].copy_from_slice(fixed);
    let mut len = ipv4::MIN_HEADER_LEN;
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let option_len = usize::from(rest.first().copied().unwrap_or(0));
                let (Some(option), Some(behind)) =
                    (options.get(..option_len.max(2)), options.get(option_len.max(2)..))
                else {
                    return 0;
                };
                if kind & COPIED != 0
                    && let Some(place) = out.get_mut(len..len + option.len())
                {
                    place.copy_from_slice(option);
                    len += option.len();
                }
                options = behind;
            }
        }
    }
    // The end of the list, as often as words need.
    let padded = len.next_multiple_of(4);
    out[len..padded].fill(0);
    // Words of the header, at most 15.
    out[0] = 0x40 | (padded / 4) as u8;
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0x40 | (5 + options.len() / 4) as u8];
        header.resize(ipv4::MIN_HEADER_LEN, 7);
        header.extend(options);
        header
    }

    #[test]
    fn later_fragments_have_the_options_with_the_copied_flag() {
        // Record route stays in the first; loose source route and router alert are in all (RFC 791 §3.1, RFC 2113 §2.1).
        let route = [7, 7, 4, 1, 2, 3, 4];
        let alert = [0x94, 4, 0, 0];
        let source = [0x83, 7, 4, 9, 9, 9, 9];
        for (options, kept) in [
            (vec![], vec![]),
            ([&route[..], &[0]].concat(), vec![]),
            (alert.to_vec(), alert.to_vec()),
            ([&route[..], &[1], &alert].concat(), alert.to_vec()),
            ([&source[..], &[1], &alert].concat(), [&source[..], &alert, &[0]].concat()),
        ] {
            let mut out = [0xee; MAX_HEADER_LEN];
            let len = later_header(&header(&options), &mut out);
            assert_eq!(out[..len], header(&kept), "{options:?}");
        }
    }

    #[test]
    fn options_that_run_over_the_header_are_refused() {
        let mut out = [0; MAX_HEADER_LEN];
        for options in [[0x94, 5, 0, 0], [0x94, 255, 0, 0], [1, 1, 1, 0x94]] {
            assert_eq!(later_header(&header(&options), &mut out), 0, "{options:?}");
        }
        // A length below two would never end.
        assert_eq!(later_header(&header(&[0x94, 0, 0, 0]), &mut out), 24);
    }
}
