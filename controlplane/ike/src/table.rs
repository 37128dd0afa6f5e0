//! Where IKE SAs are kept and found: by SPI, by connection, by deadline.
//!
//! Hash maps are only looked up, never walked, so that nothing depends on their order.

use crate::event::{IkeId, Path};
use crate::message::IkeSpi;
use crate::sa::Sa;
use crate::view::Role;
use core::net::{IpAddr, SocketAddr};
use ipsec::sa::PairId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Messages that wait for the keys of one rekeyed IKE SA. With a window of one the peer has at most one request under
/// way, which it may repeat or send in fragments.
const MAX_PARKED: usize = 8;

/// A message that waits.
pub(crate) struct Parked {
    pub(crate) path: Path,
    pub(crate) datagram: Vec<u8>,
}

struct Entry {
    sa: Sa,
    own_spi: IkeSpi,
    first_message: Option<(IkeSpi, SocketAddr)>,
    deadline: Option<Instant>,
    half_open: Option<IpAddr>,
    held: Held,
    connection: String,
}

/// What IKE SAs hold, of one or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Child negotiations under way.
    pub(crate) negotiations: usize,
    /// Fragments that wait for their others.
    pub(crate) fragments: usize,
    /// Entries of the ISADB.
    pub(crate) counted: usize,
}

impl Held {
    fn of(sa: &Sa) -> Self {
        Self {
            negotiations: sa.negotiations(),
            fragments: sa.fragments_held(),
            counted: usize::from(sa.is_counted()),
        }
    }

    const fn replace(&mut self, old: Self, new: Self) {
        self.negotiations = self.negotiations - old.negotiations + new.negotiations;
        self.fragments = self.fragments - old.fragments + new.fragments;
        self.counted = self.counted - old.counted + new.counted;
    }
}

/// All IKE SAs with their indexes.
#[derive(Default)]
pub(crate) struct Table {
    sas: BTreeMap<IkeId, Entry>,
    by_spi: HashMap<IkeSpi, IkeId>,
    /// Responders by the initiator's SPI and address: where a repeated first message belongs.
    by_first_message: HashMap<(IkeSpi, SocketAddr), IkeId>,
    by_connection: BTreeMap<String, BTreeSet<IkeId>>,
    deadlines: BTreeSet<(Instant, IkeId)>,
    larval: BTreeMap<IkeSpi, Vec<Parked>>,
    pairs: HashMap<PairId, IkeId>,
    half_open: usize,
    half_open_by: HashMap<IpAddr, usize>,
    held: Held,
}

impl Table {
    pub(crate) fn insert(&mut self, sa: Sa, keep_alive: Duration) {
        let head = sa.head();
        let (id, own_spi) = (head.id, head.own_spi());
        let is_responder = head.role == Role::Responder && sa.is_half_open();
        let first_message = is_responder.then_some((head.spi_i, head.path.remote));
        let connection = head.connection.name.clone();
        self.by_spi.insert(own_spi, id);
        if let Some(key) = first_message {
            self.by_first_message.insert(key, id);
        }
        self.by_connection.entry(connection.clone()).or_default().insert(id);
        if let Some(children) = sa.children() {
            self.pairs.extend(children.keys().map(|pair| (*pair, id)));
        }
        let (deadline, half_open, held) = (None, None, Held::default());
        let entry = Entry { sa, own_spi, first_message, deadline, half_open, held, connection };
        self.sas.insert(id, entry);
        self.settle(id, keep_alive);
    }

    /// Brings the indexes up to date after a step of an IKE SA; says whether it is gone.
    pub(crate) fn settle(&mut self, id: IkeId, keep_alive: Duration) -> bool {
        let Some(entry) = self.sas.get_mut(&id) else { return false };
        let gone = entry.sa.is_gone();
        let deadline = if gone { None } else { entry.sa.deadline(keep_alive) };
        if deadline != entry.deadline {
            if let Some(old) = entry.deadline {
                self.deadlines.remove(&(old, id));
            }
            if let Some(new) = deadline {
                self.deadlines.insert((new, id));
            }
            entry.deadline = deadline;
        }
        let held = if gone { Held::default() } else { Held::of(&entry.sa) };
        self.held.replace(core::mem::replace(&mut entry.held, held), held);
        let half_open = entry.sa.is_half_open().then(|| entry.sa.head().path.remote.ip());
        if half_open.is_some() != entry.half_open.is_some() {
            match (half_open, entry.half_open) {
                (Some(address), _) => {
                    self.half_open += 1;
                    *self.half_open_by.entry(address).or_default() += 1;
                }
                (None, Some(address)) => {
                    self.half_open -= 1;
                    if let Some(count) = self.half_open_by.get_mut(&address) {
                        *count -= 1;
                        if *count == 0 {
                            self.half_open_by.remove(&address);
                        }
                    }
                }
                (None, None) => {}
            }
            entry.half_open = half_open;
        }
        let name = &entry.sa.head().connection.name;
        if entry.connection != *name {
            let name = name.clone();
            let old = core::mem::replace(&mut entry.connection, name);
            let new = entry.connection.clone();
            self.leave_connection(&old, id);
            self.by_connection.entry(new).or_default().insert(id);
        }
        if gone {
            self.remove(id);
        }
        gone
    }

    fn remove(&mut self, id: IkeId) {
        let Some(entry) = self.sas.remove(&id) else { return };
        if self.by_spi.get(&entry.own_spi) == Some(&id) {
            self.by_spi.remove(&entry.own_spi);
        }
        if let Some(key) = entry.first_message
            && self.by_first_message.get(&key) == Some(&id)
        {
            self.by_first_message.remove(&key);
        }
        self.leave_connection(&entry.connection, id);
    }

    fn leave_connection(&mut self, name: &str, id: IkeId) {
        if let Some(ids) = self.by_connection.get_mut(name) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_connection.remove(name);
            }
        }
    }

    /// An initiation goes on under another SPI.
    pub(crate) fn renew(&mut self, id: IkeId, old: IkeSpi, new: IkeSpi) {
        self.by_spi.remove(&old);
        self.by_spi.insert(new, id);
        if let Some(entry) = self.sas.get_mut(&id) {
            entry.own_spi = new;
        }
    }

    pub(crate) fn get(&self, id: IkeId) -> Option<&Sa> {
        self.sas.get(&id).map(|entry| &entry.sa)
    }

    pub(crate) fn get_mut(&mut self, id: IkeId) -> Option<&mut Sa> {
        self.sas.get_mut(&id).map(|entry| &mut entry.sa)
    }

    pub(crate) fn by_spi(&self, spi: IkeSpi) -> Option<IkeId> {
        self.by_spi.get(&spi).copied()
    }

    pub(crate) fn by_first_message(&self, spi_i: IkeSpi, from: SocketAddr) -> Option<IkeId> {
        self.by_first_message.get(&(spi_i, from)).copied()
    }

    /// The IKE SAs of a connection, oldest first.
    pub(crate) fn of_connection(&self, name: &str) -> Vec<IkeId> {
        self.by_connection.get(name).map(|ids| ids.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sa> {
        self.sas.values().map(|entry| &entry.sa)
    }

    pub(crate) fn ids(&self) -> Vec<IkeId> {
        self.sas.keys().copied().collect()
    }

    pub(crate) fn owner(&self, pair: PairId) -> Option<IkeId> {
        self.pairs.get(&pair).copied()
    }

    pub(crate) fn own(&mut self, pair: PairId, id: IkeId) {
        self.pairs.insert(pair, id);
    }

    pub(crate) fn forget(&mut self, pair: PairId) {
        self.pairs.remove(&pair);
    }

    /// What all of them hold.
    pub(crate) fn held(&self) -> Held {
        debug_assert_eq!(self.held, self.recount(), "every step of an SA ends with `settle`");
        self.held
    }

    fn recount(&self) -> Held {
        let mut sum = Held::default();
        for entry in self.sas.values() {
            sum.replace(Held::default(), Held::of(&entry.sa));
        }
        sum
    }

    pub(crate) const fn half_open(&self) -> usize {
        self.half_open
    }

    pub(crate) fn half_open_from(&self, address: IpAddr) -> usize {
        self.half_open_by.get(&address).copied().unwrap_or(0)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    pub(crate) fn due(&self, now: Instant) -> Vec<IkeId> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    // Messages for IKE SAs whose keys are still being computed.

    pub(crate) fn begin_larval(&mut self, spi: IkeSpi) {
        self.larval.entry(spi).or_default();
    }

    pub(crate) fn end_larval(&mut self, spi: IkeSpi) -> Vec<Parked> {
        self.larval.remove(&spi).unwrap_or_default()
    }

    /// `None` when the SPI is not larval, else whether there was room.
    pub(crate) fn park(&mut self, spi: IkeSpi, path: Path, datagram: &[u8]) -> Option<bool> {
        let parked = self.larval.get_mut(&spi)?;
        let room = parked.len() < MAX_PARKED;
        if room {
            parked.push(Parked { path, datagram: datagram.to_vec() });
        }
        Some(room)
    }

    pub(crate) fn parked(&self) -> usize {
        self.larval.values().map(Vec::len).sum()
    }
}
