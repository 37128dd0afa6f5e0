//! The life of a port while the gateway runs: its device loses its carrier, changes MTU, address or number of queues, goes away
//! and comes back.
//!
//! ```text
//!            device gone                         device of that name appears
//!  attached ─────────────► detached ────────────────────────────────────────► attached
//!     │  workers close their sockets             program attached, offloads off, a socket on each queue
//!     │  and drop what was to leave there        for a worker (again every second while that fails)
//!     ▼
//!   carrier, MTU, address, queues followed
//! ```
//!
//! The kernel's fail-closed rules and the steering program's posture hold all the while: a device that returns brings nothing
//! in clear, and what a queue without socket gets is dropped where policies touch it.

use super::{Chosen, TurnedOff, mode, quieten};
use crate::config;
use crate::host::netlink::{HostView, Link};
use af_xdp::steering::{Attachment, Steering, SteeringError};
use af_xdp::{AttachMode, BoundSocket, Device, OpenError, XdpConfig};
use core::num::NonZeroU16;
use stats::{BlockWriter, Counter, Unit};
use std::io;
use std::time::{Duration, Instant};
use worker::{CoreId, Dataplane, PortId, Refusal};

/// How soon a device that could not be attached is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the number of queues is looked at: the kernel says nothing of its change.
const QUEUES_EVERY: Duration = Duration::from_secs(2);

/// Rings of a queue beyond one for each worker: its frames come out of the slack of the worker's memory.
const MORE: (u32, u32) = (512, 64);

/// Lines that a port may log at once, and how long it takes to earn another: a flapping link must not fill the disk.
const LINES: u32 = 10;
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The counters of a port's life, in the order in which they are published.
pub(super) fn counters() -> [Counter; 8] {
    let event = |name, text| Counter::monotonic(name, Unit::Events, text);
    [
        Counter::gauge(
            "carrier",
            Unit::Events,
            "1 while the device is there, up and has a carrier.",
        ),
        Counter::gauge("mtu", Unit::Bytes, "Its MTU; 0 while it is not there."),
        event("carrier_losses", "Times the carrier was lost or the device went down."),
        event("mtu_changes", "Changes of its MTU."),
        event("address_changes", "Changes of its MAC address."),
        event("queue_changes", "Changes of its number of queues."),
        event("detached", "Times the device went away."),
        event("attached", "Times it came back and was attached again."),
    ]
}

const CARRIER_LOSSES: usize = 0;
const MTU_CHANGES: usize = 1;
const ADDRESS_CHANGES: usize = 2;
const QUEUE_CHANGES: usize = 3;
const DETACHED: usize = 4;
const ATTACHED: usize = 5;

/// A device under the steering program.
pub(super) struct Attached {
    pub(super) device: Device,
    pub(super) attachment: Attachment,
    pub(super) off: Vec<TurnedOff>,
}

/// One port, whether its device is there or not.
pub(super) struct PortLife {
    id: PortId,
    /// Of the device.
    name: String,
    /// Of the device that has the addresses: the same, or its VLAN device.
    interface: String,
    /// Its VLAN, and those of the ports that share its sockets.
    vlans: Vec<Option<NonZeroU16>>,
    /// The place of the port whose sockets it shares.
    trunk: Option<usize>,
    mode: config::PortMode,
    attached: Option<Attached>,
    /// The device that has the addresses, while it and the one with the queues are there.
    index: Option<u32>,
    /// The link as it was last looked at.
    seen: Option<Link>,
    queues: u32,
    retry: Option<Instant>,
    next_queues: Instant,
    counts: [u64; 6],
    lines: Lines,
    block: Option<BlockWriter>,
}

/// Why a device could not be attached again.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error(transparent)]
    Device(#[from] io::Error),
    #[error("{0}")]
    Offload(super::PortsError),
    #[error(transparent)]
    Steering(#[from] SteeringError),
    #[error("queue {0}: {1}")]
    Open(u32, OpenError),
    #[error(
        "it has {queues} receive queues, each of the {workers} workers needs one, and it gets no more: {source}; give it as \
         many as before, or restart the gateway with fewer queues on all ports"
    )]
    Queues { queues: u32, workers: u32, source: io::Error },
    #[error(transparent)]
    Workers(#[from] Refusal),
}

impl PortLife {
    pub(super) fn new(
        id: PortId,
        chosen: &Chosen,
        vlans: Vec<Option<NonZeroU16>>,
        attached: Option<Attached>,
        block: Option<BlockWriter>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            name: chosen.device.name().to_owned(),
            interface: chosen.interface.clone(),
            vlans,
            trunk: chosen.trunk,
            mode: chosen.mode,
            index: None,
            queues: chosen.device.queues(),
            attached,
            seen: None,
            retry: None,
            next_queues: now + QUEUES_EVERY,
            counts: [0; 6],
            lines: Lines { left: LINES, earned: now, kept_back: 0 },
            block,
        }
    }

    /// The index of the device that has its addresses; `None` while there is none.
    pub(super) fn index(&self) -> Option<u32> {
        self.index
    }

    /// The place of the port whose sockets it shares, if it is not that itself.
    pub(super) fn trunk(&self) -> Option<usize> {
        self.trunk
    }

    /// Whether the device with the queues is there.
    pub(super) fn has_device(&self) -> bool {
        self.attached.is_some()
    }

    /// As [`follow`](Self::follow), of a port whose device is another one's to attach.
    pub(super) fn follow_trunk(&mut self, view: &HostView, there: bool, now: Instant) -> bool {
        let before = self.index;
        self.index = if there { view.interface(&self.interface) } else { None };
        if before.is_some() != self.index.is_some() {
            self.counts[if before.is_some() { DETACHED } else { ATTACHED }] +=
                u64::from(self.seen.is_some());
        }
        self.follow_link(view, now);
        self.next_queues = now + QUEUES_EVERY;
        self.publish();
        before != self.index
    }

    fn device(&self) -> Option<u32> {
        self.attached.as_ref().map(|at| at.device.index())
    }

    /// When it is to be looked at though the kernel says nothing.
    pub(super) fn deadline(&self) -> Instant {
        self.retry.map_or(self.next_queues, |retry| retry.min(self.next_queues))
    }

    /// Brings it up to date with the host; whether its device came or went.
    pub(super) fn follow(
        &mut self,
        view: &HostView,
        steering: &Steering,
        dataplane: &mut Dataplane,
        now: Instant,
    ) -> bool {
        let before = self.index;
        if let Some(index) = self.device()
            && !view.links.contains_key(&index)
        {
            self.detach(dataplane, now);
        }
        if self.attached.is_none()
            && self.retry.is_none_or(|at| at <= now)
            && view.interface(&self.name).is_some()
        {
            self.retry = None;
            match self.attach(steering, dataplane) {
                Ok(attached) => {
                    self.queues = attached.device.queues();
                    let index = attached.device.index();
                    self.attached = Some(attached);
                    self.counts[ATTACHED] += 1;
                    self.say(now, |port| tracing::info!(port, index, "the device is back"));
                }
                Err(error) => {
                    self.retry = Some(now + RETRY);
                    self.say(now, |port| {
                        tracing::warn!(port, %error, "the device is there and not to be had");
                    });
                }
            }
        }
        // One device keeps its number when it is renamed, and its VLAN device is found by name.
        self.index = match self.device() {
            device if self.interface == self.name => device,
            Some(_) => view.interface(&self.interface),
            None => None,
        };
        self.follow_link(view, now);
        if self.next_queues <= now {
            self.next_queues = now + QUEUES_EVERY;
            self.follow_queues(steering, dataplane, now);
        }
        self.publish();
        before != self.index
    }

    fn detach(&mut self, dataplane: &mut Dataplane, now: Instant) {
        if let Err(refusal) = dataplane.detach_port(self.id) {
            // The ring empties within a turn or two.
            tracing::debug!(%refusal, "detach again");
            self.retry = Some(now + Duration::from_millis(10));
            return;
        }
        if let Some(Attached { off, .. }) = self.attached.take() {
            // There is no device any more whose offloads could be turned on again.
            off.into_iter().for_each(TurnedOff::forget);
        }
        self.seen = None;
        self.retry = None;
        self.counts[DETACHED] += 1;
        self.say(now, |port| tracing::warn!(port, "the device is gone"));
    }

    fn attach(
        &self,
        steering: &Steering,
        dataplane: &mut Dataplane,
    ) -> Result<Attached, AttachError> {
        let mut device = Device::by_name(&self.name)?;
        let (queues, workers) = (device.queues(), dataplane.workers() as u32);
        if queues.min(device.transmit_queues()) < workers {
            // A worker without one could not send there what its SAs bring. What was set by `ethtool -L` went with the device.
            device.set_queues(workers).map_err(|source| AttachError::Queues {
                queues,
                workers,
                source,
            })?;
            tracing::info!(
                port = self.name,
                before = queues,
                after = workers,
                "queues for all workers"
            );
        }
        let attachment =
            steering.attach_to(&device, &self.vlans, mode(self.mode).attach_modes())?;
        let generic = attachment.mode() == AttachMode::Generic;
        let off = quieten(&device, generic).map_err(AttachError::Offload)?;
        let mut sockets = Vec::new();
        for queue in 0..device.queues() {
            sockets.push(self.socket(&device, queue, &attachment, dataplane)?);
        }
        // All or none: what was opened is closed when one is missing.
        for (core, socket) in sockets {
            dataplane.attach_port(core, self.id, socket)?;
        }
        Ok(Attached { device, attachment, off })
    }

    /// A socket on a queue, for the worker whose it is: the queues beyond one for each go around.
    fn socket(
        &self,
        device: &Device,
        queue: u32,
        attachment: &Attachment,
        dataplane: &Dataplane,
    ) -> Result<(CoreId, BoundSocket), AttachError> {
        let workers = dataplane.workers();
        let core = CoreId::new(queue as usize % workers).ok_or(Refusal::UnknownWorker)?;
        let memory = dataplane.memory(core).ok_or(Refusal::UnknownWorker)?;
        let mut config = XdpConfig { mode: mode(self.mode), ..XdpConfig::default() };
        if queue as usize >= workers {
            (config.receive_ring, config.transmit_ring) = MORE;
        }
        // The control thread does not wait: a busy queue is tried again.
        BoundSocket::open(device, queue, attachment, &memory, &config, Duration::ZERO)
            .map(|socket| (core, socket))
            .map_err(|error| AttachError::Open(queue, error))
    }

    /// Carrier, MTU and address.
    fn follow_link(&mut self, view: &HostView, now: Instant) {
        let Some(link) = self.index.and_then(|index| view.links.get(&index)) else { return };
        let before = self.seen.replace(link.clone());
        match &self.attached {
            Some(attached) => {
                if let Err(error) = attached.attachment.set_address(link.mac) {
                    tracing::warn!(port = self.name, %error, "the device's address is not followed");
                }
            }
            None if self.trunk.is_none() => return,
            None => {}
        }
        let Some(before) = before else { return };
        let (was, is) = (before.has_carrier(), link.has_carrier());
        if was != is {
            self.counts[CARRIER_LOSSES] += u64::from(was);
            self.say(now, |port| tracing::info!(port, carrier = is, "the carrier changed"));
        }
        if before.mtu != link.mtu {
            self.counts[MTU_CHANGES] += 1;
            let most = af_xdp::MAX_MTU;
            self.say(now, |port| match link.mtu <= most {
                true => tracing::info!(port, mtu = link.mtu, "the MTU changed"),
                false => tracing::warn!(
                    port,
                    mtu = link.mtu,
                    most,
                    "the MTU is more than can be received; longer packets are lost"
                ),
            });
        }
        if before.mac != link.mac {
            self.counts[ADDRESS_CHANGES] += 1;
            self.say(now, |port| tracing::info!(port, "the MAC address changed"));
        }
    }

    /// Queues that came up are received from by the workers there are.
    fn follow_queues(&mut self, steering: &Steering, dataplane: &mut Dataplane, now: Instant) {
        let (Some(attached), Some(link)) = (&mut self.attached, &self.seen) else { return };
        let name = if self.interface == self.name { &link.name } else { &self.name };
        let Ok(device) = Device::by_name(name) else { return };
        if device.queues() == self.queues || device.index() != attached.device.index() {
            return;
        }
        let (before, after) = (self.queues, device.queues());
        if let Err(error) = steering.renew(&mut attached.attachment) {
            return self.say(now, |port| {
                tracing::warn!(port, %error, "what comes to the new queues is the kernel's");
            });
        }
        let Some(attached) = &self.attached else { return };
        for queue in before..after {
            let opened = self.socket(&device, queue, &attached.attachment, dataplane);
            let done = opened.and_then(|(core, socket)| {
                dataplane.attach_port(core, self.id, socket).map_err(AttachError::from)
            });
            if let Err(error) = done {
                self.queues = queue;
                return self.say(now, |port| {
                    tracing::warn!(port, queue, %error, "what comes to this queue is dropped");
                });
            }
        }
        // Fewer than before the kernel grants only when ours are not among those that go.
        self.queues = after;
        self.counts[QUEUE_CHANGES] += 1;
        self.say(now, |port| {
            tracing::warn!(
                port,
                before,
                after,
                "the number of queues changed; a restart gives each a worker"
            );
        });
    }

    fn say(&mut self, now: Instant, line: impl FnOnce(&str)) {
        if let Some(kept_back) = self.lines.take(now) {
            if kept_back > 0 {
                tracing::info!(port = self.name, kept_back, "changes that were not logged");
            }
            line(&self.name);
        }
    }

    fn publish(&mut self) {
        let Some(block) = &mut self.block else { return };
        let carrier = self.seen.as_ref().is_some_and(Link::has_carrier);
        let mtu = self.seen.as_ref().map_or(0, |link| link.mtu);
        let mut values = [u64::from(carrier), u64::from(mtu), 0, 0, 0, 0, 0, 0];
        values[2..].copy_from_slice(&self.counts);
        block.publish(&values);
    }
}

/// Lines that may still be logged.
struct Lines {
    left: u32,
    earned: Instant,
    kept_back: u64,
}

impl Lines {
    /// Takes one: how many were kept back before it. `None`: this one is kept back, too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        while self.left < LINES && now.saturating_duration_since(self.earned) >= LINE_EVERY {
            self.left += 1;
            self.earned += LINE_EVERY;
        }
        if self.left == LINES {
            self.earned = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(core::mem::take(&mut self.kept_back))
            }
            None => {
                self.kept_back += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flapping_link_does_not_fill_the_log() {
        let start = Instant::now();
        let mut lines = Lines { left: LINES, earned: start, kept_back: 0 };
        let said = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(said as u32, LINES);
        assert_eq!(lines.take(start + LINE_EVERY), Some(990), "one more, and how many were not");
        assert_eq!(lines.take(start + LINE_EVERY), None);
        assert_eq!(lines.take(start + 100 * LINE_EVERY), Some(1));
        assert_eq!(lines.left, LINES - 1, "no more than at first");
    }
}
