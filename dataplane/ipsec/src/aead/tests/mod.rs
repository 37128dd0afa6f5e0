//! Every engine this processor has, against published vectors and against `aes-gcm`.

mod api;
mod differential;
#[expect(unsafe_code, reason = "maps and protects pages")]
mod guard_pages;
mod vectors;

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::aes::Aes192;
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};

use super::*;

const KEY_LENGTHS: [usize; 3] = [16, 24, 32];
const TAG_LENGTHS: [usize; 3] = [8, 12, 16];

/// AES-GCM by the `aes-gcm` crate alone: the ciphertext, and the full tag.
fn oracle(key: &[u8], nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let mut text = plain.to_vec();
    let data = InOutBuf::from(&mut text[..]);
    let n = nonce.into();
    let tag = match key.len() {
        16 => Aes128Gcm::new_from_slice(key).unwrap().encrypt_inout_detached(&n, aad, data),
        24 => AesGcm::<Aes192, U12>::new_from_slice(key)
            .unwrap()
            .encrypt_inout_detached(&n, aad, data),
        _ => Aes256Gcm::new_from_slice(key).unwrap().encrypt_inout_detached(&n, aad, data),
    };
    (text, tag.unwrap().into())
}

/// Bytes that a failing run can be repeated with (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend(self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }

    fn nonce(&mut self) -> [u8; 12] {
        self.bytes(12).try_into().unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// One packet of a burst, with margins around its buffers that must never change.
struct Packet {
    key: usize,
    nonce: [u8; 12],
    aad: Vec<u8>,
    src: Margined,
    /// `None`: in place.
    dst: Option<Margined>,
    tag: Margined,
}

/// `len` bytes at an offset in a larger buffer of [`MARGIN`] bytes.
struct Margined {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

const MARGIN: u8 = 0xa5;
const MARGIN_LEN: usize = 80;

impl Margined {
    fn new(content: &[u8], offset: usize) -> Self {
        let start = MARGIN_LEN + offset;
        let mut bytes = vec![MARGIN; start + content.len() + MARGIN_LEN];
        bytes[start..start + content.len()].copy_from_slice(content);
        Self { bytes, start, len: content.len() }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    fn assert_margins(&self) {
        let (before, rest) = self.bytes.split_at(self.start);
        assert!(before.iter().chain(&rest[self.len..]).all(|b| *b == MARGIN), "wrote outside");
    }
}

impl Packet {
    fn with_tag_of(self, len: usize) -> Self {
        Self { tag: Margined::new(&[0; 16][..len], 0), ..self }
    }

    fn output(&self) -> &[u8] {
        self.dst.as_ref().unwrap_or(&self.src).get()
    }

    fn assert_margins(&self) {
        self.src.assert_margins();
        self.tag.assert_margins();
        if let Some(dst) = &self.dst {
            dst.assert_margins();
        }
    }

    /// The next direction reads what the last one wrote.
    fn turn_round(&mut self, dice: &mut Dice) {
        if let Some(dst) = &mut self.dst {
            core::mem::swap(&mut self.src, dst);
            let filler = dice.bytes(dst.len);
            dst.get_mut().copy_from_slice(&filler);
        }
    }
}

fn seal_packets(keys: &[GcmKey], packets: &mut [Packet], kept: Keys) {
    let mut burst: Vec<_> = packets
        .iter_mut()
        .map(|p| {
            let key = keys[p.key].kept(kept, p.src.len);
            let (aad, tag) = (Aad::new(&p.aad), p.tag.get_mut());
            match &mut p.dst {
                None => SealJob::in_place(key, p.nonce, aad, p.src.get_mut(), tag),
                Some(dst) => {
                    SealJob::out_of_place(key, p.nonce, aad, p.src.get(), dst.get_mut(), tag)
                }
            }
            .unwrap()
        })
        .collect();
    seal_burst(&mut burst);
}

fn open_packets(keys: &[GcmKey], packets: &mut [Packet], kept: Keys) -> Vec<bool> {
    let mut burst: Vec<_> = packets
        .iter_mut()
        .map(|p| {
            let key = keys[p.key].kept(kept, p.src.len);
            let (aad, tag) = (Aad::new(&p.aad), p.tag.get());
            match &mut p.dst {
                None => OpenJob::in_place(key, p.nonce, aad, p.src.get_mut(), tag),
                Some(dst) => {
                    OpenJob::out_of_place(key, p.nonce, aad, p.src.get(), dst.get_mut(), tag)
                }
            }
            .unwrap()
        })
        .collect();
    open_burst(&mut burst);
    burst.iter().map(|job| job.verdict().is_ok()).collect()
}
