//! SAs, policies and routes of a gateway that is measured, whatever its ports are, and the packets to come.

use std::collections::HashMap;
use std::time::Instant;

use ipsec::algorithm::{Cipher, KeyMaterial};
use ipsec::sa::{HeaderRules, Lifetime, Mode, PairId, Protocol, SaParameters, Spi, Transform};
use ipsec::selector::{Action, AddressRange, Policy, PolicyId, Ports, Selector};
use stats::Worker as Row;
use worker::{
    Account, Activation, CoreId, Dataplane, DataplaneConfig, Delivery, ForwardingTable, Idle,
    Limits, Link, LocalAddresses, Mac, NeighbourTable, PortId, Route, RouteTable, Worker,
    WorkerParts,
};

use crate::Error;
use crate::plan::{Direction, Plan};
use crate::traffic::{HOST, INSIDE, Next, OUTSIDE, PEER, Shape, keying, remote, unused};

/// The port that packets come to.
const SOURCE: PortId = PortId(0);

/// SAs installed before the workers turn: their commands fit a ring.
const INSTALLED_AT_ONCE: usize = 512;

/// Whoever has a worker to turn.
pub(crate) trait Turned {
    /// The worker.
    fn worker(&mut self) -> &mut Worker;
}

impl Turned for Worker {
    fn worker(&mut self) -> &mut Worker {
        self
    }
}

/// The control thread's side of the gateway of one point.
pub(crate) struct Tunnels {
    dataplane: Dataplane,
    pub(crate) shape: Shape,
    /// The gateway's address on each port.
    ports: Vec<Mac>,
    /// SPI and the last sequence number of each SA, by worker.
    sas: Vec<Vec<(u32, u64)>>,
}

/// Octets of a packet as it is handed over.
const LONGEST: usize = 1536;

impl Tunnels {
    /// Workers without anything to do; `ports` are the gateway's addresses, the first one where packets come in.
    pub(crate) fn new(
        plan: &Plan,
        shape: Shape,
        sas: usize,
        ports: &[Mac],
        parts: Vec<WorkerParts>,
    ) -> Result<(Self, Vec<Worker>), Error> {
        let limits = Limits {
            // Four slots of the first core name no SPI.
            sas: (sas + 8).next_power_of_two(),
            commands_per_turn: 4096,
            // A worker that does not get its core for a while must not make the other one drop.
            handoff_ring: (plan.workers * plan.frames).next_power_of_two(),
            handoff_octets: plan.workers * plan.frames * LONGEST,
            ..Limits::default()
        };
        let config = DataplaneConfig { limits, idle: Idle::Spin, ..DataplaneConfig::default() };
        let (dataplane, workers) = Dataplane::new(&config, parts)?;
        let sas = vec![Vec::with_capacity(sas); plan.workers];
        Ok((Self { dataplane, shape, ports: ports.to_vec(), sas }, workers))
    }

    /// Gives each worker so many SAs, each with its policy, and has packets leave by `out`.
    pub(crate) fn install(
        &mut self,
        plan: &Plan,
        sas: usize,
        out: PortId,
        workers: &mut [impl Turned],
    ) -> Result<(), Error> {
        let all = sas * workers.len();
        let policy = |sa| Policy {
            id: PolicyId(sa as u32 + 1),
            selectors: vec![selector(sa)],
            action: Action::Protect,
        };
        // Addresses that no packet has, each policy with its own.
        let beside = |n| Policy {
            id: PolicyId((all + n) as u32 + 1),
            selectors: vec![Selector {
                remote: AddressRange::host(unused(n).into()),
                ..selector(0)
            }],
            action: Action::Discard,
        };
        let policies = (0..plan.policies).map(beside).chain((0..all).map(policy));
        self.dataplane.set_policies(&policies.collect::<Vec<_>>())?;
        self.lead_to(out, workers)?;
        for index in 0..workers.len() {
            let core = CoreId::new(index).ok_or(Error::Plan("too many workers"))?;
            for n in 0..sas {
                let sa = index * sas + n;
                let pair = PairId(sa as u64 + 1);
                let spi = self.dataplane.allocate_spi(core)?;
                let parameters = self.parameters(plan, sa, spi);
                self.dataplane.add_inbound(&parameters, Delivery::Forward)?;
                // The peer's SPI is the peer's to choose: here, the same.
                self.dataplane.add_outbound(&parameters)?;
                self.dataplane.bind(PolicyId(sa as u32 + 1), pair, Activation::Now)?;
                let begun = self.begun(sa);
                self.sas[index].push((spi.get(), begun));
                if n % INSTALLED_AT_ONCE == INSTALLED_AT_ONCE - 1 {
                    self.settle(workers);
                }
            }
            self.settle(workers);
        }
        Ok(())
    }

    fn parameters(&self, plan: &Plan, sa: usize, spi: Spi) -> SaParameters {
        SaParameters {
            pair: PairId(sa as u64 + 1),
            spi,
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            local: OUTSIDE.into(),
            remote: PEER.into(),
            encap: None,
            transform: Transform {
                cipher: Cipher::AesGcm(16),
                cipher_key: KeyMaterial::new(keying(plan.suite, self.shape.direction, sa)),
                integrity: None,
            },
            esn: plan.esn,
            replay_window: plan.window,
            selectors: vec![selector(sa)],
            later_fragments: false,
            lifetime: Lifetime::default(),
            headers: HeaderRules::default(),
        }
    }

    /// The last number that an SA has had. A peer's are as far as they happen to be, so that they lie all over their windows.
    fn begun(&self, sa: usize) -> u64 {
        match self.shape.direction {
            Direction::In => sa as u64 * 613 % 2048,
            Direction::Out => 0,
        }
    }

    /// Lets the workers carry out what they were told.
    pub(crate) fn settle(&mut self, workers: &mut [impl Turned]) {
        for _ in 0..2 {
            for each in &mut *workers {
                each.worker().turn(Instant::now());
            }
        }
        self.listen();
    }

    /// Takes what the workers tell.
    pub(crate) fn listen(&mut self) {
        while self.dataplane.poll_event().is_some() {}
    }

    /// Routes all that the gateway sends to a port.
    pub(crate) fn lead_to(
        &mut self,
        port: PortId,
        workers: &mut [impl Turned],
    ) -> Result<(), Error> {
        let mut routes = RouteTable::new();
        let mut neighbours = NeighbourTable::new();
        let next = match self.shape.direction {
            Direction::Out => PEER,
            Direction::In => HOST,
        };
        for (address, len) in [(INSIDE, 24), (OUTSIDE, 24)] {
            // These lengths are an IPv4 prefix's.
            let _ = routes.insert(address.into(), len, Route::OnLink(port));
        }
        neighbours.insert(port, next.into(), self.shape.macs.sink);
        let own = |mac: &Mac, address| Link {
            mac: *mac,
            mtu: 1500,
            up: true,
            v4: Some(address),
            v6: None,
        };
        let (near, far) = match self.shape.direction {
            Direction::Out => (INSIDE, OUTSIDE),
            Direction::In => (OUTSIDE, INSIDE),
        };
        neighbours.insert(SOURCE, near.into(), self.shape.macs.source);
        self.dataplane.set_forwarding(ForwardingTable {
            routes: routes.into(),
            neighbours: neighbours.into(),
            addresses: LocalAddresses::new([INSIDE.into(), OUTSIDE.into()]).into(),
            links: self
                .ports
                .iter()
                .enumerate()
                .map(|(n, mac)| own(mac, if n == 0 { near } else { far }))
                .collect(),
        })?;
        self.settle(workers);
        Ok(())
    }

    /// An SA of a worker, that its next packet has.
    fn next(&mut self, (owner, at): (usize, usize), number: u64) -> Next {
        let sa = owner * self.sas[owner].len() + at;
        let (spi, sequence) = &mut self.sas[owner][at];
        *sequence += 1;
        Next { number, sa, spi: *spi, sequence: *sequence }
    }

    /// Takes back what was noted of a packet of the first worker that will not be fed.
    pub(crate) fn forget(&mut self, next: Next) {
        // The gateway gives no number to a packet that it has not seen; the peer has numbered it.
        if self.shape.direction == Direction::Out
            && let Some((_, sequence)) = self.sas.first_mut().and_then(|sas| sas.get_mut(next.sa))
        {
            *sequence -= 1;
        }
    }
}

/// What comes to one worker: packets of a pass, and those after it.
pub(crate) struct Stream {
    /// The SAs whose packets come, in order: whose, and which of them.
    order: Vec<(usize, usize)>,
    number: u64,
    /// The packets that were written last.
    pub(crate) pass: Vec<Next>,
    /// Their frames, [`Shape::stride`] apart.
    pub(crate) frames: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(plan: &Plan, shape: &Shape, worker: usize, sas: usize) -> Self {
        Self {
            order: arrivals(plan, worker, sas),
            number: 0,
            pass: Vec::with_capacity(plan.frames),
            frames: vec![0; plan.frames * shape.stride()],
        }
    }

    /// Packets of one SA that nobody has, for a forwarder, which does not look into them.
    pub(crate) fn blind(plan: &Plan, shape: &Shape) -> Self {
        let mut stream = Self::new(plan, shape, 0, 1);
        let next = |number| Next { number, sa: 0, spi: 0x100, sequence: number + 1 };
        stream.pass.extend((0..plan.frames as u64).map(next));
        shape.write(&stream.pass, &mut stream.frames);
        stream
    }

    /// Writes the next packets.
    pub(crate) fn write(&mut self, count: usize, tunnels: &mut Tunnels) {
        self.pass.clear();
        for _ in 0..count {
            let whose = self.order[(self.number % self.order.len() as u64) as usize];
            self.pass.push(tunnels.next(whose, self.number));
            self.number += 1;
        }
        tunnels.shape.write(&self.pass, &mut self.frames);
    }

    /// Packets after which every SA has had one.
    pub(crate) fn round(&self) -> usize {
        self.order.len()
    }

    /// A frame of the packets that were written last.
    pub(crate) fn frame(&self, shape: &Shape, n: usize) -> &[u8] {
        &self.frames[n * shape.stride()..][..shape.frame_len(&self.pass[n])]
    }
}

/// Packets received and sent.
pub(crate) fn counts<'a>(workers: impl Iterator<Item = &'a Worker>) -> (u64, u64) {
    workers.map(Worker::account).fold((0, 0), |(received, sent), account| {
        (received + account.get(Row::Received), sent + account.get(Row::Sent))
    })
}

/// Whether so many packets went in and out since `before`, all of them, and none is in between.
pub(crate) fn account_for<'a>(
    workers: impl Iterator<Item = &'a Worker>,
    before: (u64, u64),
    given: u64,
) -> Result<(), Error> {
    let workers: Vec<&Worker> = workers.collect();
    let now = counts(workers.iter().copied());
    let (received, sent) = (now.0 - before.0, now.1 - before.1);
    let accounts: Vec<&Account> = workers.into_iter().map(Worker::account).collect();
    if let Some(account) = accounts.iter().find(|account| !account.balances()) {
        return Err(Error::Account(format!("{account:?}")));
    }
    if received != given || sent != given || accounts.iter().any(|a| a.all_drops() != 0) {
        let drops = accounts.iter().flat_map(|account| account.dropped());
        let drops: Vec<_> = drops.map(|(cause, n)| format!("{cause} {n}")).collect();
        return Err(Error::Lost { given, sent, drops: drops.join(", ") });
    }
    Ok(())
}

/// Looks into every output: what is right, once, and in its SA's order; how many.
pub(crate) fn check_all<'a>(
    shape: &Shape,
    nexts: impl Iterator<Item = &'a Next>,
    outputs: &[Vec<u8>],
) -> Result<u64, Error> {
    // Packets of one flow keep their order; a burst may send what it knows before what it has to ask about.
    let mut expected: HashMap<_, _> = nexts.map(|n| (shape.key_of(n), n)).collect();
    let mut last = HashMap::new();
    for (n, output) in (0..).zip(outputs) {
        let next = shape.key_in(output).and_then(|key| expected.remove(&key));
        let what = "nobody sent it, or it is there twice";
        let next = next.ok_or(Error::Wrong { number: n, what })?;
        let number = next.number;
        shape.check(next, output).map_err(|what| Error::Wrong { number, what })?;
        if last.insert(next.sa, number).is_some_and(|before| before > number) {
            return Err(Error::Wrong { number, what: "its order" });
        }
    }
    if let Some(next) = expected.values().next() {
        return Err(Error::Wrong { number: next.number, what: "it is missing" });
    }
    Ok(outputs.len() as u64)
}

/// Which SAs' packets come to a worker, in order. Of a worker's SAs the first so many of a hundred come to the next worker.
fn arrivals(plan: &Plan, worker: usize, sas: usize) -> Vec<(usize, usize)> {
    let owner_before = (worker + plan.workers - 1) % plan.workers;
    let is_handed = |at: usize| at * 100 < plan.handoff as usize * sas;
    let order = plan.order.of(sas).into_iter().map(|at| at as usize);
    order.map(|at| (if is_handed(at) { owner_before } else { worker }, at)).collect()
}

fn selector(sa: usize) -> Selector {
    Selector {
        local: AddressRange::host(HOST.into()),
        remote: AddressRange::host(remote(sa).into()),
        protocol: None,
        local_ports: Ports::Any,
        remote_ports: Ports::Any,
    }
}
