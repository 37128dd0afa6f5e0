//! Reassembly of encrypted fragments (RFC 7383 §2.6).

use super::window::Digest;
use crate::context::Cx;
use crate::crypto::Opened;
use zeroize::Zeroizing;

/// Fragments of one message. IKE messages of up to 64 KiB in datagrams of no less than about 500 octets need no more.
const MAX_FRAGMENTS: u16 = 128;

/// Octets of one reassembled message: what an IKE message's payload lengths can say.
const MAX_LEN: usize = 65_535;

/// The message under reassembly. Every fragment was authentic before it came here, so that only the peer itself can fill
/// this; one message at a time, the newest ID and the largest total win.
#[derive(Default)]
pub(crate) struct Reassembly {
    id: u32,
    total: u16,
    first: u8,
    /// Of the datagram with the first fragment: the repeat of that one asks for the answer again (RFC 7383 §2.6.1).
    digest: Digest,
    parts: Vec<Option<Zeroizing<Vec<u8>>>>,
}

impl Reassembly {
    /// Takes the authentic content of a datagram; returns the content of the whole message once it is there, with the
    /// digest by which its repetition is known.
    pub(crate) fn add(
        &mut self,
        cx: &mut Cx<'_>,
        id: u32,
        opened: Opened,
        digest: Digest,
    ) -> Option<(Opened, Digest)> {
        let Some(fragment) = opened.fragment else {
            self.clear();
            return Some((opened, digest));
        };
        let (number, total) = (fragment.number(), fragment.total());
        if total > MAX_FRAGMENTS || (id == self.id && total < self.total) {
            cx.stats.invalid_packets_received += 1;
            return None;
        }
        if id != self.id || total > self.total {
            self.clear();
            self.id = id;
            self.total = total;
            self.parts.resize_with(usize::from(total), || None);
        }
        let held: usize = self.parts.iter().flatten().map(|part| part.len()).sum();
        let slot = self.parts.get_mut(usize::from(number).checked_sub(1)?)?;
        if slot.is_some() || held + opened.content.len() > MAX_LEN {
            return None;
        }
        if number == 1 {
            self.first = opened.first;
            self.digest = digest;
        }
        *slot = Some(opened.content);
        if self.parts.iter().any(Option::is_none) {
            return None;
        }
        let mut content = Zeroizing::new(Vec::new());
        for part in self.parts.iter().flatten() {
            content.extend_from_slice(part);
        }
        let (first, digest) = (self.first, self.digest);
        self.clear();
        Some((Opened { first, fragment: None, content }, digest))
    }

    /// Buffers held.
    pub(crate) fn held(&self) -> usize {
        self.parts.iter().flatten().count()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
