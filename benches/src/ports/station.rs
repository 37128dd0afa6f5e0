//! Who sends the packets, and looks at what comes back.

use std::time::{Duration, Instant};

use af_xdp::{Frame, FramePool, Port, XdpPort};

use super::subject::Gate;
use crate::traffic::Shape;
use crate::tunnels::Stream;

/// Frames sent or received at once.
const BURST: usize = 32;

/// After so long without a packet those under way are lost: longer than a busy machine keeps a thread waiting for its core.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same while it is asked whether anything comes back at all.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);

/// When packets are sent.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// So many at a time, before whoever is to take them may turn; the next when all are back.
    Held(usize),
    /// As fast as possible, at most so many under way.
    Window(usize),
    /// One every so many nanoseconds.
    Paced(f64),
    /// All at once, to see whether any comes back.
    Knock,
}

/// What became of packets.
#[derive(Clone, Copy, Default)]
pub(super) struct Exchange {
    pub(super) given: u64,
    pub(super) back: u64,
    /// From the first one sent to the last one back.
    pub(super) took: Duration,
}

/// The sender's port, all of its queues.
pub(super) struct Station {
    ports: Vec<Port>,
    pool: FramePool,
    out: Vec<Frame>,
    taken: Vec<Frame>,
    zero_copy: bool,
}

impl Station {
    pub(super) fn new(ports: Vec<XdpPort>, pool: FramePool) -> Self {
        let zero_copy = ports.iter().all(XdpPort::is_zero_copy);
        let ports = ports.into_iter().map(Port::Xdp).collect();
        Self { ports, pool, out: Vec::new(), taken: Vec::new(), zero_copy }
    }

    pub(super) fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Sends the first `count` packets of each stream, the streams by turns, and calls `seen` with each frame that comes back and the
    /// time since the beginning. What is under way when nothing has come for a while is lost.
    pub(super) fn exchange(
        &mut self,
        shape: &Shape,
        streams: &[Stream],
        count: usize,
        way: Way,
        gate: &Gate,
        mut seen: impl FnMut(&[u8], Duration),
    ) -> Exchange {
        let all = count * streams.len();
        let (mut given, mut back, mut lost) = (0usize, 0, 0);
        let mut sent = vec![0; streams.len()];
        let mut next = 0;
        if !matches!(way, Way::Held(_)) {
            gate.open();
        }
        let patience = if matches!(way, Way::Knock) { SHORT_PATIENCE } else { PATIENCE };
        let begun = Instant::now();
        let (mut now, mut moved, mut took) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut draining = false;
        while back + lost < all {
            // What was given up may come yet.
            let under_way = given.saturating_sub(back + lost);
            let may = match way {
                Way::Held(most) => {
                    if draining && under_way == 0 {
                        gate.hold();
                        draining = false;
                    } else if !draining && (under_way >= most || given == all) {
                        gate.open();
                        draining = true;
                    }
                    if draining { 0 } else { most.saturating_sub(under_way) }
                }
                Way::Window(most) => most.saturating_sub(under_way),
                Way::Knock => all,
                Way::Paced(interval) => {
                    let due = (now.as_nanos() as f64 / interval) as usize + 1;
                    due.saturating_sub(given)
                }
            };
            let mut put = 0;
            if may > 0 && given < all {
                // The next stream that has packets left.
                while sent[next] == count {
                    next = (next + 1) % streams.len();
                }
                let range = sent[next]..count.min(sent[next] + may.min(BURST));
                put = self.send(next, &streams[next], shape, range);
                sent[next] += put;
                given += put;
                next = (next + 1) % streams.len();
            }
            let came = self.receive(|frame| seen(frame, begun.elapsed()));
            now = begun.elapsed();
            if came > 0 {
                back += came;
                took = now;
            }
            if came > 0 || put > 0 {
                moved = now;
            } else if now - moved > patience {
                lost = given.saturating_sub(back);
                if may > 0 && given < all {
                    // The device takes nothing.
                    break;
                }
                moved = now;
            }
        }
        gate.hold();
        Exchange { given: given as u64, back: back as u64, took }
    }

    /// Puts packets on the wire; how many there was room for.
    fn send(
        &mut self,
        stream: usize,
        packets: &Stream,
        shape: &Shape,
        range: core::ops::Range<usize>,
    ) -> usize {
        let queue = stream % self.ports.len();
        for n in range {
            let Some(mut frame) = self.pool.alloc() else { break };
            if frame.copy_from(packets.frame(shape, n)).is_some() {
                self.out.push(frame);
            }
        }
        let port = &mut self.ports[queue];
        let sent = port.transmit(&mut self.pool, &mut self.out);
        port.kick();
        for frame in self.out.drain(..) {
            // Its own come home.
            let _ = self.pool.free(frame);
        }
        sent
    }

    /// Takes what came; how many.
    fn receive(&mut self, mut seen: impl FnMut(&[u8])) -> usize {
        let mut came = 0;
        for port in &mut self.ports {
            port.complete(&mut self.pool);
            came += port.receive(&mut self.pool, &mut self.taken, BURST);
            // What the device had no room for.
            port.kick();
            for frame in self.taken.drain(..) {
                seen(frame.data());
                // Its own come home.
                let _ = self.pool.free(frame);
            }
        }
        came
    }
}
