//! What an IKE SA is handed for one step: the time, the random numbers, the outputs, and what it asks of the engine.

use crate::config::{Child, Config, Connection};
use crate::event::{
    Event, Failure, IkeId, InstallId, Level, Outcome, Path, RequestId, SpiRefused, SpiSource,
    Transmit,
};
use crate::job::{Job, Work};
use crate::known::{Known, KnownPeers};
use crate::message::IkeSpi;
use crate::random::Random;
use crate::statistics::Statistics;
use crate::succession::Between;
use crate::v1::quick::First;
use crate::v2::child::ChildSa;
use crate::v2::sa::IkeSa;
use crate::v2::task::Queued;
use core::net::IpAddr;
use ipsec::sa::{PairId, Protocol, Spi};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// What waits to be polled.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) events: VecDeque<Event>,
}

/// Numbers that are never given twice.
#[derive(Default)]
pub(crate) struct Ids {
    last: u64,
}

impl Ids {
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The last one given.
    pub(crate) const fn last(&self) -> u64 {
        self.last
    }
}

/// Which half of a pair is being installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Inbound,
    Outbound,
}

/// An installation that waits for its acknowledgement.
pub(crate) struct Installing {
    pub(crate) pair: PairId,
    pub(crate) half: Half,
    /// The inbound SPI, which goes back to the allocator when the inbound half is refused.
    pub(crate) spi: Spi,
}

/// The numbering and bookkeeping that outlives a single IKE SA.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) ike: Ids,
    pub(crate) pair: Ids,
    pub(crate) install: Ids,
    pub(crate) job: Ids,
    pub(crate) request: Ids,
    /// IKEv1: the order in which main modes begin, say their last word and come up.
    pub(crate) moment: Ids,
    /// IKEv1: whose main modes have come as far as the third message, by the address of each.
    pub(crate) callers: BTreeMap<IkeId, IpAddr>,
    /// Virtual addresses that we have from peers.
    pub(crate) own_addresses: BTreeMap<IkeId, IpAddr>,
    /// Virtual addresses that peers have.
    pub(crate) leases: crate::pool::Leases,
    pub(crate) installing: BTreeMap<InstallId, Installing>,
    /// Who is authenticated.
    pub(crate) known: KnownPeers,
}

/// What an IKE SA asks of the engine around it, carried out in order when its step is over.
pub(crate) enum Effect {
    /// A rekeyed IKE SA begins its life.
    Insert(Box<IkeSa>),
    /// Messages may come for an IKE SA of ours whose keys are not computed yet: they wait.
    Larval(IkeSpi),
    /// They wait no more.
    NotLarval(IkeSpi),
    /// Children and queued tasks go over to the successor.
    Move { from: IkeId, to: IkeId, children: BTreeMap<PairId, ChildSa>, tasks: VecDeque<Queued> },
    /// The other IKE SA of a rekey collision is the one to be given up by its creator.
    Redundant(IkeId),
    /// An initiation begins anew under another SPI.
    Renew { id: IkeId, old: IkeSpi, new: IkeSpi },
    /// A new Child SA belongs to this IKE SA.
    Own(PairId, IkeId),
    /// A Child SA is no more.
    Forget(PairId),
    /// An IKE SA was authenticated: others with the same ends may have to go.
    Authenticated { id: IkeId, known: Known, initial_contact: bool, fresh: bool },
    /// An acquire has an outcome.
    Acquired { connection: String, child: String, result: Result<Outcome, Failure> },
    /// A part of a command is done.
    TagDone { request: RequestId, result: Result<Outcome, Failure> },
    /// The connection is negotiated anew with these children (reauthentication), and the virtual addresses that it had are asked for.
    Reinitiate {
        connection: Arc<Connection>,
        children: Vec<Arc<Child>>,
        wanted: Vec<IpAddr>,
        tag: Option<RequestId>,
    },
    /// IKEv1: a new main mode is to take the place of an ISAKMP SA, on the path that the SA has.
    Renewal { old: IkeId, connection: Arc<Connection>, path: Path, tag: Option<RequestId> },
    /// IKEv1: the main mode that was to take the place of this SA failed.
    NotReplaced(IkeId),
    /// IKEv1: an ISAKMP SA is there, and those that were there before it, `replaces` among them, hand over.
    Succeed { id: IkeId, replaces: Option<IkeId> },
    /// IKEv1: an ISAKMP SA hands over what it can to the one that has taken over.
    Adopt { from: IkeId, to: IkeId },
    /// IKEv1: the peer begins a quick mode on another ISAKMP SA than the one in use: what that has comes to it first.
    Recall { from: IkeId, to: IkeId, first: Box<First> },
    /// IKEv1: an ISAKMP SA is gone; another of those between the same two may have to take over.
    Ended(Between),
    /// IKEv1: an ISAKMP SA is gone; its children go to another one between the same two. Where there is none they end, which
    /// `downs` tell.
    Orphans { between: Between, children: BTreeMap<PairId, ChildSa>, downs: Vec<Event> },
    /// IKEv1: an ISAKMP SA asks which pairs there still are that keep it from its end.
    Wards(IkeId),
    /// IKEv1: a Child SA of ours goes, and others between the same two than its own ISAKMP SA are to say so too.
    TellDelete { ike: IkeId, protocol: Protocol, spi: Spi },
    /// IKEv1: the peer of this SA deletes a Child SA that another SA with the same ends may have.
    DeletedByPeer { ike: IkeId, protocol: Protocol, spi: u32 },
    /// IKEv1: the peer says that it knows of no other SA.
    InitialContact(IkeId),
}

/// One step's surroundings.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a Config,
    pub(crate) spis: &'a mut dyn SpiSource,
    pub(crate) random: &'a mut Random,
    pub(crate) out: &'a mut Outputs,
    pub(crate) stats: &'a mut Statistics,
    pub(crate) registry: &'a mut Registry,
    pub(crate) effects: &'a mut VecDeque<Effect>,
}

impl Cx<'_> {
    pub(crate) fn transmit(&mut self, path: Path, datagram: Vec<u8>) {
        self.out.transmits.push_back(Transmit { path, datagram });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }

    pub(crate) fn log(&mut self, level: Level, text: String) {
        self.event(Event::Log { level, text });
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// A pair goes from the dataplane and from the engine.
    pub(crate) fn remove_pair(&mut self, pair: PairId) {
        self.event(Event::RemovePair { pair });
        self.effect(Effect::Forget(pair));
    }

    /// Gives a job to the pool and returns the number by which its result is known.
    pub(crate) fn job(&mut self, ike: IkeId, established: bool, work: Work) -> u64 {
        let number = self.registry.job.next();
        self.out.jobs.push_back(Job { ike, number, established, work });
        number
    }

    pub(crate) fn allocate(
        &mut self,
        peer: IpAddr,
        inherit: Option<Spi>,
    ) -> Result<Spi, SpiRefused> {
        self.stats.total_get_spi += 1;
        let result = self.spis.allocate(peer, inherit);
        if result.is_err() {
            self.stats.get_spi_failures += 1;
        }
        result
    }

    pub(crate) fn tag_done(&mut self, tag: Option<RequestId>, result: Result<Outcome, Failure>) {
        if let Some(request) = tag {
            self.effect(Effect::TagDone { request, result });
        }
    }
}
