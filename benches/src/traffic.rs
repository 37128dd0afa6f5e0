//! Packets before the gateway and behind it. Everything follows from an SA's and a packet's number, so what comes
//! out is compared with what must come out, and nothing is remembered.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit, consts::U12};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, aes::Aes192};
use ipsec::aead::{Aad, GcmKey, OpenJob, SealJob, open_burst, seal_burst};
use rayon::prelude::*;
use wire::{esp, ethernet, ipv4, protocol, udp};
use worker::Mac;

use crate::plan::{Direction, Plan, Size, Suite, split_mix};

/// The host that the gateway protects, and the gateway beside it.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The tunnel's ends.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The station that sends to the gateway, its port there, and the station that the gateway sends to.
const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const NEAR_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const FAR_MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);
const SINK_MAC: Mac = Mac([2, 0, 0, 0, 0, 4]);

const IV_LEN: usize = 8;
pub(crate) const ICV_LEN: usize = 16;
/// From the Ethernet header to the ESP header, and to the ciphertext.
const ESP_AT: usize = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN;
pub(crate) const TEXT_AT: usize = ESP_AT + esp::HEADER_LEN + IV_LEN;

/// TTL before the gateway and behind it.
const TTL: u8 = 64;

/// The host behind the peer whose packets an SA carries; no SA shares it.
pub(crate) fn remote(sa: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 0).to_bits() + sa as u32)
}

/// An address that no packet has.
pub(crate) fn unused(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(100, 0, 0, 0).to_bits() + n as u32)
}

/// Key and salt of an SA.
pub(crate) fn keying(suite: Suite, direction: Direction, sa: usize) -> Vec<u8> {
    let mut state = (sa as u64) << 1 | u64::from(direction == Direction::In);
    let len = suite.key_len() + 4;
    (0..len.div_ceil(8)).flat_map(|_| split_mix(&mut state).to_be_bytes()).take(len).collect()
}

/// What the cipher works on: the inner packet, padding to four bytes and the trailer (RFC 4303 §2.4).
pub(crate) fn text_len(size: u16) -> usize {
    (usize::from(size) + esp::TRAILER_LEN).next_multiple_of(4)
}

/// The length of the frames that go into the gateway.
pub(crate) fn frame_len(direction: Direction, size: u16) -> usize {
    match direction {
        Direction::Out => ethernet::HEADER_LEN + usize::from(size),
        Direction::In => TEXT_AT + text_len(size) + ICV_LEN,
    }
}

/// One packet to come.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    pub(crate) number: u64,
    pub(crate) sa: usize,
    /// Inbound only.
    pub(crate) spi: u32,
    pub(crate) sequence: u64,
}

/// The key that a thread used last: a million of them expanded would not fit beside the gateway's own.
#[derive(Default)]
struct Key(Option<(usize, GcmKey, [u8; 4])>);

impl Key {
    fn of(&mut self, shape: &Shape, sa: usize) -> Option<(&GcmKey, &[u8])> {
        if self.0.as_ref().is_none_or(|(of, ..)| *of != sa) {
            let keying = keying(shape.suite, shape.direction, sa);
            let (key, salt) = keying.split_at(shape.suite.key_len());
            self.0 = Some((sa, GcmKey::new(key).ok()?, salt.try_into().ok()?));
        }
        self.0.as_ref().map(|(_, key, salt)| (key, &salt[..]))
    }
}

/// Who sends to whom: the station before the gateway, the gateway's port there, its port on the other side, and the
/// station behind that.
#[derive(Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) source: Mac,
    pub(crate) near: Mac,
    pub(crate) far: Mac,
    pub(crate) sink: Mac,
}

impl Default for Macs {
    /// Those of the in-memory device.
    fn default() -> Self {
        Self { source: SOURCE_MAC, near: NEAR_MAC, far: FAR_MAC, sink: SINK_MAC }
    }
}

/// What packets of a run have in common.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) macs: Macs,
    pub(crate) direction: Direction,
    pub(crate) size: Size,
    pub(crate) suite: Suite,
    pub(crate) esn: bool,
}

impl Shape {
    pub(crate) fn new(plan: &Plan, direction: Direction, size: Size, macs: Macs) -> Self {
        Self { macs, direction, size, suite: plan.suite, esn: plan.esn }
    }

    /// How far frames of a pass lie apart.
    pub(crate) fn stride(&self) -> usize {
        frame_len(self.direction, self.size.longest())
    }

    /// The length of a packet's frame.
    pub(crate) fn frame_len(&self, next: &Next) -> usize {
        frame_len(self.direction, self.size.of(next.number))
    }

    /// Writes the frames of a pass, all threads of the machine together.
    pub(crate) fn write(&self, pass: &[Next], frames: &mut [u8]) {
        let frames = frames.par_chunks_exact_mut(self.stride()).zip(pass).with_min_len(128);
        let frames = frames.map(|(frame, next)| (&mut frame[..self.frame_len(next)], next));
        frames.for_each_init(Key::default, |key, (frame, next)| match self.direction {
            Direction::Out => {
                let header = ethernet::emit(self.macs.near, self.macs.source, ethernet::IPV4);
                frame[..ethernet::HEADER_LEN].copy_from_slice(&header);
                self.inner(next, TTL, &mut frame[ethernet::HEADER_LEN..]);
            }
            Direction::In => self.protected(next, key, frame),
        });
    }

    fn inner(&self, next: &Next, ttl: u8, packet: &mut [u8]) {
        let size = self.size.of(next.number);
        let (source, destination) = match self.direction {
            Direction::Out => (HOST, remote(next.sa)),
            Direction::In => (remote(next.sa), HOST),
        };
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: size,
            id: next.number as u16,
            dont_fragment: false,
            ttl,
            protocol: protocol::UDP,
            source,
            destination,
        };
        let (ip, rest) = packet.split_at_mut(ipv4::MIN_HEADER_LEN);
        ip.copy_from_slice(&header.emit());
        let (udp, rest) = rest.split_at_mut(udp::HEADER_LEN);
        udp.copy_from_slice(&udp::emit(4000, 5000, size - 20, 0));
        let (number, rest) = rest.split_at_mut(8);
        number.copy_from_slice(&next.number.to_be_bytes());
        rest.fill(next.number as u8);
    }

    /// ESP in tunnel mode as the peer sends it (RFC 4303 §3.3, RFC 4106).
    fn protected(&self, next: &Next, key: &mut Key, frame: &mut [u8]) {
        let size = usize::from(self.size.of(next.number));
        let header = ipv4::Header {
            traffic_class: 0,
            total_len: (frame.len() - ethernet::HEADER_LEN) as u16,
            id: 0,
            dont_fragment: false,
            ttl: TTL,
            protocol: protocol::ESP,
            source: PEER,
            destination: OUTSIDE,
        };
        let (headers, rest) = frame.split_at_mut(TEXT_AT);
        let (text, icv) = rest.split_at_mut(text_len(self.size.of(next.number)));
        headers[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::emit(
            self.macs.near,
            self.macs.source,
            ethernet::IPV4,
        ));
        headers[ethernet::HEADER_LEN..ESP_AT].copy_from_slice(&header.emit());
        headers[ESP_AT..][..4].copy_from_slice(&next.spi.to_be_bytes());
        headers[ESP_AT + 4..][..4].copy_from_slice(&(next.sequence as u32).to_be_bytes());
        headers[ESP_AT + 8..].copy_from_slice(&next.sequence.to_be_bytes());
        self.inner(next, TTL, &mut text[..size]);
        let pad = text.len() - size - esp::TRAILER_LEN;
        for (i, byte) in text[size..size + pad].iter_mut().enumerate() {
            *byte = i as u8 + 1;
        }
        text[size + pad] = pad as u8;
        text[size + pad + 1] = protocol::IPV4;
        let (aad, len) = self.aad(next.spi, next.sequence);
        // A frame that this does not seal is refused by the gateway, and then there is no figure.
        if let Some((key, salt)) = key.of(self, next.sa)
            && let Ok(job) = SealJob::in_place(
                key,
                nonce(salt, &next.sequence.to_be_bytes()),
                Aad::new(&aad[..len]),
                text,
                icv,
            )
        {
            seal_burst(&mut [job]);
        }
    }

    /// SPI and sequence number as they are authenticated (RFC 4106 §5), and how long that is.
    fn aad(&self, spi: u32, sequence: u64) -> ([u8; 12], usize) {
        let mut aad = [0; 12];
        aad[..4].copy_from_slice(&spi.to_be_bytes());
        if self.esn {
            aad[4..].copy_from_slice(&sequence.to_be_bytes());
            (aad, 12)
        } else {
            aad[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
            (aad, 8)
        }
    }

    /// What tells a packet from the others of its pass.
    pub(crate) fn key_of(&self, next: &Next) -> (u32, u64) {
        match self.direction {
            Direction::Out => (next.spi, next.sequence & 0xffff_ffff),
            Direction::In => (remote(next.sa).to_bits(), next.number),
        }
    }

    /// The same of a frame behind the gateway.
    pub(crate) fn key_in(&self, frame: &[u8]) -> Option<(u32, u64)> {
        let word = |at: usize| Some(u32::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        match self.direction {
            Direction::Out => Some((word(ESP_AT)?, word(ESP_AT + 4)?.into())),
            Direction::In => {
                let at = ethernet::HEADER_LEN + ipv4::MIN_HEADER_LEN + udp::HEADER_LEN;
                let source = word(ethernet::HEADER_LEN + 12)?;
                Some((source, u64::from_be_bytes(*frame.get(at..)?.first_chunk()?)))
            }
        }
    }

    /// The number of the packet in a frame behind the gateway, which is opened for it; `sas` by SPI.
    pub(crate) fn number_in(&self, frame: &[u8], sas: &HashMap<u32, usize>) -> Option<u64> {
        let (first, second) = self.key_in(frame)?;
        if self.direction == Direction::In {
            return Some(second);
        }
        let (clear, rest) = frame.get(ESP_AT..)?.split_at_checked(esp::HEADER_LEN + IV_LEN)?;
        let mut rest = rest.to_vec();
        let text_len = rest.len().checked_sub(ICV_LEN)?;
        let (text, icv) = rest.split_at_mut(text_len);
        let keying = keying(self.suite, self.direction, *sas.get(&first)?);
        let (key, salt) = keying.split_at(self.suite.key_len());
        let key = GcmKey::new(key).ok()?;
        // Culvert's IV is the whole sequence number.
        let (aad, len) = self.aad(first, u64::from_be_bytes(*clear.last_chunk()?));
        let (nonce, aad) = (nonce(salt, &clear[8..]), Aad::new(&aad[..len]));
        let mut jobs = [OpenJob::in_place(&key, nonce, aad, text, icv).ok()?];
        open_burst(&mut jobs);
        jobs[0].verdict().ok()?;
        let at = ipv4::MIN_HEADER_LEN + udp::HEADER_LEN;
        Some(u64::from_be_bytes(*text.get(at..)?.first_chunk()?))
    }

    /// Whether a frame is what the gateway must make of a packet, opened by another implementation of the cipher.
    pub(crate) fn check(&self, next: &Next, frame: &[u8]) -> Result<(), &'static str> {
        let size = self.size.of(next.number);
        let mut expected = vec![0; usize::from(size)];
        self.inner(next, TTL - 1, &mut expected);
        let header = ethernet::emit(self.macs.sink, self.macs.far, ethernet::IPV4);
        let packet = frame.strip_prefix(&header[..]).ok_or("its Ethernet header")?;
        if self.direction == Direction::In {
            return if packet == expected { Ok(()) } else { Err("the inner packet") };
        }
        if frame.len() != TEXT_AT + text_len(size) + ICV_LEN {
            return Err("its length");
        }
        let outer = ipv4::Header {
            traffic_class: 0,
            total_len: packet.len() as u16,
            // Nothing hangs on either.
            id: u16::from_be_bytes([packet[4], packet[5]]),
            dont_fragment: packet[6] & 0x40 != 0,
            ttl: TTL,
            protocol: protocol::ESP,
            source: OUTSIDE,
            destination: PEER,
        };
        if !packet.starts_with(&outer.emit()) {
            return Err("its outer header");
        }
        let clear = &frame[ESP_AT..TEXT_AT];
        if clear[..4] != next.spi.to_be_bytes()
            || clear[4..8] != (next.sequence as u32).to_be_bytes()
        {
            return Err("its SPI or sequence number");
        }
        let (text, icv) = frame[TEXT_AT..].split_at(text_len(size));
        let mut text = text.to_vec();
        let keying = keying(self.suite, self.direction, next.sa);
        let (key, salt) = keying.split_at(self.suite.key_len());
        let (aad, len) = self.aad(next.spi, next.sequence);
        let (nonce, aad) = (nonce(salt, &clear[8..]), &aad[..len]);
        let opened = match self.suite {
            Suite::Aes128Gcm16 => open::<Aes128Gcm>(key, nonce, aad, &mut text, icv),
            Suite::Aes192Gcm16 => open::<AesGcm<Aes192, U12>>(key, nonce, aad, &mut text, icv),
            Suite::Aes256Gcm16 => open::<Aes256Gcm>(key, nonce, aad, &mut text, icv),
        };
        let pad = text.len() - expected.len() - esp::TRAILER_LEN;
        if opened.is_none() {
            Err("its ICV")
        } else if text[..expected.len()] != expected
            || text[text.len() - 2..] != [pad as u8, protocol::IPV4]
        {
            Err("the inner packet")
        } else {
            Ok(())
        }
    }
}

fn nonce(salt: &[u8], iv: &[u8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(salt);
    nonce[4..].copy_from_slice(iv);
    nonce
}

fn open<A: AeadInOut<NonceSize = U12> + KeyInit>(
    key: &[u8],
    nonce: [u8; 12],
    aad: &[u8],
    text: &mut [u8],
    icv: &[u8],
) -> Option<()> {
    let cipher = A::new_from_slice(key).ok()?;
    let icv = icv.try_into().ok()?;
    cipher.decrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(text), icv).ok()
}
