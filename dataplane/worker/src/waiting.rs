//! Packets that wait for an SA, a key or a next hop, as copies in memory of their own.
//!
//! They never pin a receive frame: a silent peer would otherwise starve the ports. All memory is taken at the start.
//!
//! ```text
//!   take in: copy into a free buffer, behind the others ─┐
//!                                                        ▼
//!   order: [oldest … newest], each with key and deadline
//!                                                        │
//!   release(key): marks ──► next_released: copied out, in order of arrival
//!   refuse(key), expire(now): dropped, by cause
//! ```

use crate::account::WorkerDrop;
use crate::config::{Limits, PortId};
use crate::packet::Packet;
use core::net::IpAddr;
use ipsec::sa::Spi;
use ipsec::selector::PolicyId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// An IP packet whose policy has no SA yet for this one of its selectors.
    Policy(PolicyId, u16),
    /// An IP packet with ESP or AH whose SPI has no key yet.
    Larval(Spi),
    /// An IP packet, ready to be sent but for the link-layer address.
    NextHop(PortId, IpAddr),
}

/// What was released.
pub(crate) struct Released<'a> {
    pub(crate) key: Key,
    /// The frame's marks when it was taken in.
    pub(crate) marks: [u64; 2],
    pub(crate) packet: &'a [u8],
}

#[derive(Debug)]
struct Entry {
    key: Key,
    marks: [u64; 2],
    deadline: Instant,
    buffer: u32,
    len: usize,
    released: bool,
}

/// The side pool of one worker and the order of what is in it.
#[derive(Debug)]
pub(crate) struct Waiting {
    memory: Box<[u8]>,
    buffer_len: usize,
    free: Vec<u32>,
    order: VecDeque<Entry>,
    /// How many of `order` are released.
    released: usize,
    per_key: usize,
    /// No entry's deadline is before this.
    next_deadline: Option<Instant>,
    wait_for_sa: Duration,
    wait_for_key: Duration,
    wait_for_next_hop: Duration,
}

impl Waiting {
    /// Takes memory for `limits.waiting_packets` packets of up to `buffer_len` bytes.
    pub(crate) fn new(limits: &Limits, buffer_len: usize) -> Self {
        let count = limits.waiting_packets;
        Self {
            memory: vec![0; count * buffer_len].into(),
            buffer_len,
            free: (0..u32::try_from(count).unwrap_or(u32::MAX)).rev().collect(),
            order: VecDeque::with_capacity(count),
            released: 0,
            per_key: limits.waiting_per_key,
            next_deadline: None,
            wait_for_sa: limits.wait_for_sa,
            wait_for_key: limits.wait_for_key,
            wait_for_next_hop: limits.wait_for_next_hop,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Copies a packet in, and says how many waited for the same before it; `None` when there is no place for it.
    pub(crate) fn take_in(&mut self, key: Key, packet: &Packet, now: Instant) -> Option<usize> {
        let before = self.order.iter().filter(|e| e.key == key).count();
        if packet.len() > self.buffer_len || before >= self.per_key {
            return None;
        }
        let buffer = self.free.pop()?;
        let start = buffer as usize * self.buffer_len;
        self.memory[start..start + packet.len()].copy_from_slice(packet);
        let deadline = now
            + match key {
                Key::Policy(..) => self.wait_for_sa,
                Key::Larval(_) => self.wait_for_key,
                Key::NextHop(..) => self.wait_for_next_hop,
            };
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |d| d.min(deadline)));
        let marks = packet.0.mark;
        self.order.push_back(Entry {
            key,
            marks,
            deadline,
            buffer,
            len: packet.len(),
            released: false,
        });
        Some(before)
    }

    /// Lets the packets go that wait for a key that `matches`.
    pub(crate) fn release(&mut self, matches: impl Fn(&Key) -> bool) {
        for entry in self.order.iter_mut().filter(|e| !e.released && matches(&e.key)) {
            entry.released = true;
            self.released += 1;
        }
    }

    /// Whether packets were released and not yet taken.
    pub(crate) fn has_released(&self) -> bool {
        self.released > 0
    }

    /// Hands the oldest released packet to `take`, and frees its place when that says so; false when there is none or
    /// it stays.
    pub(crate) fn next_released(&mut self, take: impl FnOnce(Released<'_>) -> bool) -> bool {
        if self.released == 0 {
            return false;
        }
        let Some(at) = self.order.iter().position(|e| e.released) else { return false };
        let entry = &self.order[at];
        let start = entry.buffer as usize * self.buffer_len;
        let packet = &self.memory[start..start + entry.len];
        if !take(Released { key: entry.key, marks: entry.marks, packet }) {
            return false;
        }
        if let Some(entry) = self.order.remove(at) {
            self.free.push(entry.buffer);
            self.released -= 1;
        }
        true
    }

    /// Drops the packets whose key `matches`, released ones too; how many.
    pub(crate) fn refuse(&mut self, matches: impl Fn(&Key) -> bool) -> usize {
        self.remove(|e| matches(&e.key), |_| {})
    }

    /// Drops the packets whose time is over and calls `dropped` with each one's cause. Cheap when no deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant, mut dropped: impl FnMut(WorkerDrop)) {
        if self.next_deadline.is_none_or(|d| now < d) {
            return;
        }
        self.remove(
            |e| e.deadline <= now && !e.released,
            |key| {
                dropped(match key {
                    Key::Policy(..) => WorkerDrop::WaitedForSa,
                    Key::Larval(_) => WorkerDrop::WaitedForKey,
                    Key::NextHop(..) => WorkerDrop::WaitedForNextHop,
                });
            },
        );
        self.next_deadline = self.order.iter().filter(|e| !e.released).map(|e| e.deadline).min();
    }

    /// When something has to be done here at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    fn remove(&mut self, which: impl Fn(&Entry) -> bool, mut each: impl FnMut(&Key)) -> usize {
        let before = self.order.len();
        let (free, released) = (&mut self.free, &mut self.released);
        self.order.retain(|entry| {
            let goes = which(entry);
            if goes {
                each(&entry.key);
                free.push(entry.buffer);
                *released -= usize::from(entry.released);
            }
            !goes
        });
        before - self.order.len()
    }
}
