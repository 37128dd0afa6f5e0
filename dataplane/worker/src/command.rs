//! The ring from the control thread to one worker, and what workers share.

use crate::config::{Limits, PortId};
use crate::event::Event;
use crate::forwarding::ForwardingTable;
use crate::sa_usage::SaUsage;
use crate::tunnels::{DeviceId, TunnelDevice};
use crate::wake::Doorbell;
use af_xdp::BoundSocket;
use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use ipsec::esp::inbound::InboundSa;
use ipsec::esp::outbound::OutboundSa;
use ipsec::fragments::LaterFragments;
use ipsec::sa::{PairId, Spi, UdpEncap};
use ipsec::sad::Spent;
use ipsec::selector::{PolicyId, Selector};
use ipsec::spd::Spd;
use ipsec::spi::CoreId;
use std::io;
use std::sync::Arc;

/// From when an outbound SA that is bound to a policy carries its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// From now on: the initiator of a rekey, and every first SA.
    Now,
    /// From the first authentic packet on the pair's inbound SA, or when no older SA is bound any more: the
    /// responder of a rekey, whose peer may not have its inbound SA yet (RFC 7296 §2.8).
    OnInboundTraffic,
}

/// Where decapsulated packets go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Forwarded by the worker, or to the host when addressed to it.
    #[default]
    Forward,
    /// Always to the host port, so that the kernel's filters and routes apply.
    Host,
    /// As `Forward`, but what is addressed to the host, or to nobody beyond a link, comes out of a tunnel's device.
    Device(DeviceId),
    /// All comes out of a tunnel's device, so that the kernel's filters and routes apply.
    DeviceOnly(DeviceId),
}

/// Names an outbound SA: whose it is, where in that worker's table, and which one of those that were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaRef {
    pub(crate) core: CoreId,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What every worker is told of an outbound SA bound to a policy.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) policy: PolicyId,
    pub(crate) pair: PairId,
    pub(crate) sa: SaRef,
    /// What the SA may carry: narrower than the policy, perhaps.
    pub(crate) selectors: Arc<[Selector]>,
    /// Whether later fragments may take it although it is for some ports.
    pub(crate) later_fragments: bool,
    /// A: set by the owner of the inbound SA, read by every worker. Relaxed: a packet that still takes the old SA is
    /// as right as one that already takes the new one.
    pub(crate) active: Arc<AtomicBool>,
}

/// One verb, as a worker gets it.
pub(crate) enum Command {
    AcquireFailed(PolicyId),
    AddInbound(Box<NewInbound>),
    AddOutbound(Box<NewOutbound>),
    /// A socket on a queue of the port: its first one, by which the worker sends, or one more to receive by.
    AttachPort(PortId, Box<BoundSocket>),
    Bind(Box<Binding>),
    /// To all workers: bindings go; the owner's SAs go when nothing holds a packet for them.
    Delete(PairId),
    /// The device is gone: its sockets are closed.
    DetachPort(PortId),
    Flush,
    /// Allocated, its key not known yet.
    Larval(Spi),
    ReleaseLarval(Spi),
    SetEndpoints(PairId, Endpoints),
    SetForwarding(Arc<ForwardingTable>),
    SetPathMtu(PairId, u16),
    SetPolicies(Arc<Spd>),
    SetTunnels(Arc<[TunnelDevice]>),
    Stop,
    Unbind(PairId),
}

/// Between which addresses and ports an SA pair runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Our outer address.
    pub local: IpAddr,
    /// The peer's outer address, of the same family.
    pub remote: IpAddr,
    /// UDP encapsulation.
    pub encap: Option<UdpEncap>,
}

pub(crate) struct NewInbound {
    pub(crate) pair: PairId,
    /// Taken out by the worker, and what is left over put in its place.
    pub(crate) sa: Option<InboundSa>,
    pub(crate) spent: Option<Spent>,
    pub(crate) delivery: Delivery,
    pub(crate) later: LaterFragments,
    pub(crate) usage: Arc<SaUsage>,
    pub(crate) active: Arc<AtomicBool>,
}

pub(crate) struct NewOutbound {
    pub(crate) pair: PairId,
    pub(crate) at: SaRef,
    /// As in [`NewInbound`].
    pub(crate) sa: Option<OutboundSa>,
    pub(crate) spent: Option<Spent>,
    pub(crate) usage: Arc<SaUsage>,
}

/// Memory that a worker has no more use for: the control thread wipes what was a key and gives the memory back, as both may take as long
/// as a burst.
pub(crate) enum Husk {
    #[expect(dead_code, reason = "only to be dropped")]
    Inbound(Box<NewInbound>),
    #[expect(dead_code, reason = "only to be dropped")]
    Outbound(Box<NewOutbound>),
}

/// What one worker shares with the control thread and the other workers.
#[derive(Debug)]
pub(crate) struct WorkerShared {
    /// Written by the control thread alone, read by the worker.
    pub(crate) commands: ArrayQueue<(u64, Command)>,
    /// Written by the worker, emptied by the control thread before it gives commands: so there is a place for what any command
    /// leaves over.
    pub(crate) husks: ArrayQueue<Husk>,
    /// A: the last command whose effect is complete. Release by the worker, Acquire by the control thread: what a worker
    /// wrote before it acknowledged is seen by who saw the acknowledgement.
    pub(crate) applied: CachePadded<AtomicU64>,
    /// Written by the worker, read by the control thread.
    pub(crate) events: ArrayQueue<Event>,
    /// Reassembled packets from the control thread, whole IP packets.
    pub(crate) injected: ArrayQueue<Vec<u8>>,
    /// Those for which there was no place. A: written by the control thread, read by the worker, which counts them as received
    /// and dropped. Relaxed: two counts that nothing else hangs on, each exact in the end.
    pub(crate) injected_lost: AtomicU64,
    /// Their bytes. A: as above.
    pub(crate) injected_lost_bytes: AtomicU64,
    /// A: written by the worker, read by the control thread. Relaxed: a count.
    pub(crate) events_lost: AtomicU64,
    pub(crate) bell: Doorbell,
}

impl core::fmt::Debug for Husk {
    /// No key is shown.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Husk")
    }
}

impl core::fmt::Debug for Command {
    /// The verb; some carry keys.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::AcquireFailed(_) => "AcquireFailed",
            Self::AddInbound(_) => "AddInbound",
            Self::AddOutbound(_) => "AddOutbound",
            Self::AttachPort(..) => "AttachPort",
            Self::Bind(_) => "Bind",
            Self::Delete(_) => "Delete",
            Self::DetachPort(_) => "DetachPort",
            Self::Flush => "Flush",
            Self::Larval(_) => "Larval",
            Self::ReleaseLarval(_) => "ReleaseLarval",
            Self::SetEndpoints(..) => "SetEndpoints",
            Self::SetForwarding(_) => "SetForwarding",
            Self::SetPathMtu(..) => "SetPathMtu",
            Self::SetPolicies(_) => "SetPolicies",
            Self::SetTunnels(_) => "SetTunnels",
            Self::Stop => "Stop",
            Self::Unbind(_) => "Unbind",
        })
    }
}

impl WorkerShared {
    pub(crate) fn new(limits: &Limits) -> io::Result<Self> {
        Ok(Self {
            commands: ArrayQueue::new(limits.command_ring.max(1)),
            husks: ArrayQueue::new(limits.command_ring.max(1)),
            applied: CachePadded::new(AtomicU64::new(0)),
            events: ArrayQueue::new(limits.event_ring.max(1)),
            events_lost: AtomicU64::new(0),
            injected: ArrayQueue::new(limits.waiting_packets.max(1)),
            injected_lost: AtomicU64::new(0),
            injected_lost_bytes: AtomicU64::new(0),
            bell: Doorbell::new()?,
        })
    }

    /// Whether a worker that is about to sleep has something to do here.
    pub(crate) fn has_work(&self) -> bool {
        !self.commands.is_empty() || self.has_injected()
    }

    /// Whether the kernel reassembled something that is not counted yet.
    #[inline]
    pub(crate) fn has_injected(&self) -> bool {
        !self.injected.is_empty() || self.injected_lost.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }
}
