//! Buffers that end, or begin, where an unmapped page begins or ends: one byte too far is a fault.

use core::ptr;
use core::slice;

use super::*;

/// Readable and writable pages between two that are neither.
struct Guarded {
    base: *mut u8,
    pages: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    fn new(pages: usize) -> Self {
        let len = (pages + 2) * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        let base = base.cast::<u8>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: inside the mapping just made, which nothing refers to yet.
        let rc = unsafe { libc::mprotect(base.wrapping_add(PAGE).cast(), pages * PAGE, access) };
        assert_eq!(rc, 0);
        Self { base, pages }
    }

    fn whole(&mut self) -> &mut [u8] {
        // SAFETY: the pages between the guards are mapped for as long as `self`, initialised with zeros by
        // the kernel, and borrowed with `self`.
        unsafe { slice::from_raw_parts_mut(self.base.wrapping_add(PAGE), self.pages * PAGE) }
    }

    /// The last `len` bytes before the upper guard, or the first ones after the lower.
    fn at_edge(&mut self, len: usize, upper: bool) -> &mut [u8] {
        let all = self.whole();
        let from = if upper { all.len() - len } else { 0 };
        &mut all[from..from + len]
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping of `new`, and no borrow of it is left.
        let rc = unsafe { libc::munmap(self.base.cast(), (self.pages + 2) * PAGE) };
        assert_eq!(rc, 0);
    }
}

/// Source, destination, AAD and tag each at a guard; four packets, so that runs are met too.
#[test]
fn nothing_is_touched_outside_the_buffers() {
    const BURST: usize = 5;
    let mut dice = Dice(6);
    let mut src: Vec<_> = (0..BURST).map(|_| Guarded::new(1)).collect();
    let mut dst: Vec<_> = (0..BURST).map(|_| Guarded::new(1)).collect();
    let mut aad: Vec<_> = (0..BURST).map(|_| Guarded::new(1)).collect();
    let mut tag: Vec<_> = (0..BURST).map(|_| Guarded::new(1)).collect();
    for engine in Engine::available() {
        let raw: Vec<Vec<u8>> = (0..2).map(|i| dice.bytes(16 + 16 * i)).collect();
        // Two of each: by packets of one key and of several, whatever is done differently then.
        let expand = |k: &Vec<u8>| GcmKey::with_engine(engine, k).unwrap();
        let keys: Vec<_> = raw.iter().map(|k| [expand(k), expand(k)]).collect();
        let kept = [Keys::Near, Keys::Far, Keys::Farther];
        let short = (0..=320).flat_map(|len| kept.map(|kept| (len, kept)));
        let long = (321..2200).step_by(7).map(|len| (len, Keys::Farther));
        for (len, kept) in short.chain(long) {
            let upper = dice.below(2) == 0;
            let in_place = dice.below(2) == 0;
            let key = dice.below(2);
            let several = dice.below(2);
            let aad_len = dice.pick(&[8, 12, 0, 33]);
            let tag_len = dice.pick(&TAG_LENGTHS);
            let nonce = dice.nonce();
            let plain = dice.bytes(len);
            let header = dice.bytes(aad_len);
            let (cipher, full_tag) = oracle(&raw[key], nonce, &header, &plain);

            for g in &mut src {
                g.at_edge(len, upper).copy_from_slice(&plain);
            }
            for g in &mut aad {
                g.at_edge(aad_len, upper).copy_from_slice(&header);
            }
            let mut burst = Vec::with_capacity(BURST);
            let packets = src.iter_mut().zip(&mut dst).zip(&mut aad).zip(&mut tag);
            for (n, (((s, d), a), t)) in packets.enumerate() {
                let key = keys[key][several & n].kept(kept, len);
                let aad = Aad::new(a.at_edge(aad_len, upper));
                let (s, d) = (s.at_edge(len, upper), d.at_edge(len, upper));
                let tag = t.at_edge(tag_len, upper);
                burst.push(if in_place {
                    d.copy_from_slice(s);
                    SealJob::in_place(key, nonce, aad, d, tag).unwrap()
                } else {
                    SealJob::out_of_place(key, nonce, aad, s, d, tag).unwrap()
                });
            }
            seal_burst(&mut burst);
            drop(burst);

            let mut burst = Vec::with_capacity(BURST);
            let packets = src.iter_mut().zip(&mut dst).zip(&mut aad).zip(&mut tag);
            for (n, (((s, d), a), t)) in packets.enumerate() {
                let key = keys[key][several & n].kept(kept, len);
                let aad = Aad::new(a.at_edge(aad_len, upper));
                let (s, d) = (s.at_edge(len, upper), d.at_edge(len, upper));
                let tag = t.at_edge(tag_len, upper);
                assert!(d == cipher && tag == &full_tag[..tag_len], "{} {len}", engine.name());
                burst.push(if in_place {
                    OpenJob::in_place(key, nonce, aad, d, tag).unwrap()
                } else {
                    OpenJob::out_of_place(key, nonce, aad, d, s, tag).unwrap()
                });
            }
            open_burst(&mut burst);
            assert!(burst.iter().all(|job| job.verdict().is_ok()), "{} {len}", engine.name());
            drop(burst);
            let opened = if in_place { &mut dst } else { &mut src };
            for g in opened {
                assert!(g.at_edge(len, upper) == plain, "{} {len}", engine.name());
            }
        }
    }
}
