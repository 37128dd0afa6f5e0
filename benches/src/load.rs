//! Latency and loss under a chosen load.
//!
//! Packets arrive evenly on a clock of its own. What has arrived by then is given to the device, untimed; the worker's turn is timed, and its
//! time moves the clock on. So the sender takes nothing of the core, whatever the load, and every time that a packet waits is a time
//! that turns took.
//!
//! ```text
//!  arrivals   │   │   │   │   │   │   │   │          one every so many nanoseconds
//!  receive ring  ▒▒▒▒▒▒▒ at most RING, what is more is lost
//!  worker      ├── turn ──┤├── turn ──┤├ idle ┤├──    all that waits, up to a burst
//!  latency        │──────►│
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use worker::Clock;

use crate::gateway::Bed;
use crate::report::{Latency, Load, histogram};
use crate::{Error, MAX_PATH_BURST};

/// Packets that may wait for the worker: an AF_XDP port's receive ring as `culvert run` sets it up.
const RING: usize = 2048;

/// Frames on their way to the worker, with the time of their arrival.
#[derive(Default)]
struct Waiting {
    frames: VecDeque<(f64, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Waiting {
    fn arrive(&mut self, at: f64, bytes: &[u8]) {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.extend_from_slice(bytes);
        self.frames.push_back((at, frame));
    }
}

/// Measures for about as long as `time`; `gateway` is the time that a packet takes when others wait.
pub(crate) fn measure(
    bed: &mut Bed,
    burst: usize,
    percent: u32,
    gateway: f64,
    time: Duration,
) -> Result<Load, Error> {
    let interval = gateway * 100.0 / f64::from(percent);
    let most = burst.min(MAX_PATH_BURST);
    let scale = bed.nanoseconds_a_cycle();
    let mut latency = histogram();
    let (mut waiting, mut lost, mut offered) = (Waiting::default(), 0, 0u64);
    let (mut now, mut next) = (0.0f64, 0.0f64);
    let mut clock = Clock::new();
    let begun = Instant::now();
    while offered == 0 || begun.elapsed() < time {
        bed.write();
        let before = bed.counts();
        let (mut arrived, mut given) = (0, 0);
        loop {
            while arrived < bed.per_pass() && next <= now {
                if waiting.frames.len() < RING {
                    waiting.arrive(next, bed.frame(arrived));
                } else {
                    bed.forget(arrived);
                    lost += 1;
                }
                (arrived, next) = (arrived + 1, next + interval);
            }
            if waiting.frames.is_empty() {
                if arrived == bed.per_pass() {
                    break;
                }
                now = now.max(next);
            }
            let count = waiting.frames.len().min(most);
            let frames = waiting.frames.iter().take(count).map(|(_, frame)| frame.as_slice());
            if bed.feed(frames) != count {
                return Err(Error::Plan("the device does not take a burst"));
            }
            let (packets, cycles) = bed.turn(&mut clock);
            now += cycles as f64 * scale;
            if packets != count {
                return Err(Error::Plan("a turn did not take what waited"));
            }
            given += count as u64;
            for (at, frame) in waiting.frames.drain(..count) {
                latency.saturating_record((now - at) as u64);
                waiting.spare.push(frame);
            }
        }
        offered += arrived as u64;
        bed.account_for(before, given)?;
    }
    Ok(Load { percent, mpps: 1e3 / interval, offered, lost, latency_ns: Latency::of(&latency) })
}
