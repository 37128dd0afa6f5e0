//! What a dataplane is made of, and the limits that bound what it can be made to hold.

use crate::host::HostPort;
use af_xdp::{FramePool, Port};
use core::num::NonZeroU16;
use core::time::Duration;
use stats::BlockWriter;

/// Names one port (device and VLAN), the same in every worker; counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Which side of the gateway a port faces (RFC 4301 §3.1).
///
/// swanctl.conf has no word for it, so [`Side::Either`] is the default: a plain packet is then checked
/// as inbound and as outbound traffic, as a kernel without interface knowledge does it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Both checks.
    #[default]
    Either,
    /// Hosts that the gateway protects: plain packets are outbound.
    Protected,
    /// The path to peers: plain packets are inbound.
    Unprotected,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps in poll() after this many turns that found nothing.
    Sleep {
        /// Empty turns before sleeping.
        after_empty_turns: u32,
    },
    /// Never sleeps.
    Spin,
}

impl Default for Idle {
    /// 64 turns: some microseconds, less than a wake-up costs, so that a busy flow does not pay for one.
    fn default() -> Self {
        Self::Sleep { after_empty_turns: 64 }
    }
}

/// Bounds of what a worker holds and does; each is a number of one worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands applied at most in a turn: the longest a packet waits for the control thread. So many when the turn before found no packets;
    /// before a burst as many as it leaves room for, which is one before a full one, and at least one a turn.
    pub commands_per_turn: usize,
    /// Commands that wait for a worker; the control thread gets [`Refusal::RingFull`](crate::Refusal::RingFull) beyond.
    pub command_ring: usize,
    /// Events that wait for the control thread; more are counted and lost, and each of them is
    /// raised again by the traffic that caused it.
    pub event_ring: usize,
    /// Packets that wait for their owner core, of those from one other core; more are dropped and counted.
    pub handoff_ring: usize,
    /// Octets of packets that a worker's others may leave waiting, shared equally by the ways to each of them; a way has 64 KiB at least.
    pub handoff_octets: usize,
    /// Packets that wait for an SA, a key or a next hop, all together. Each has a preallocated buffer.
    pub waiting_packets: usize,
    /// Of these, for one selector of a policy, SPI or next hop, so that one silent peer cannot take all places.
    pub waiting_per_key: usize,
    /// How long a packet waits for an SA: a negotiation with one retransmission fits.
    pub wait_for_sa: Duration,
    /// How long a packet waits for the key of a larval SPI: the rest of an exchange.
    pub wait_for_key: Duration,
    /// How long a packet waits for a link-layer address: three probes of RFC 4861, a second apart.
    pub wait_for_next_hop: Duration,
    /// How often an acquire is raised again while its selector still has no SA.
    pub acquire_repeat: Duration,
    /// ICMP errors a second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
    pub icmp_per_second: u32,
    /// ICMP errors in one burst.
    pub icmp_burst: u32,
    /// SAs that a worker can own, of each direction.
    pub sas: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            commands_per_turn: 16,
            command_ring: 4096,
            event_ring: 1024,
            handoff_ring: 2048,
            handoff_octets: 4 << 20,
            waiting_packets: 256,
            waiting_per_key: 64,
            wait_for_sa: Duration::from_secs(8),
            wait_for_key: Duration::from_secs(8),
            wait_for_next_hop: Duration::from_secs(3),
            acquire_repeat: Duration::from_secs(5),
            icmp_per_second: 200,
            icmp_burst: 50,
            sas: 1 << 16,
        }
    }
}

/// One port of one worker: the queue of the device that this worker reads and writes.
#[derive(Debug)]
pub struct WorkerPort {
    /// The socket, or the in-memory device.
    pub port: Port,
    /// The side it faces.
    pub side: Side,
    /// The VLAN whose tag its frames carry; `None` is none, or a priority tag.
    pub vlan: Option<NonZeroU16>,
}

/// What one worker owns.
pub struct WorkerParts {
    /// Packet memory of the worker, which its ports are bound to.
    pub pool: FramePool,
    /// Its queue of every port: the index is the [`PortId`], so all workers list the same ports.
    pub ports: Vec<WorkerPort>,
    /// Its queue of the host port.
    pub host: HostPort,
    /// Its block of the statistics segment, laid out with [`drop_counters`](crate::drop_counters).
    pub block: Option<BlockWriter>,
}

/// The settings that all workers have in common.
#[derive(Clone, Copy, Debug)]
pub struct DataplaneConfig {
    /// Bounds.
    pub limits: Limits,
    /// What an idle worker does.
    pub idle: Idle,
    /// UDP port of IKE on this gateway. What comes to it, or from it out of the host port, passes in clear.
    pub ike_port: u16,
    /// UDP port of encapsulated ESP, and of IKE beside it (RFC 3948).
    pub encap_port: u16,
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), idle: Idle::default(), ike_port: 500, encap_port: 4500 }
    }
}
