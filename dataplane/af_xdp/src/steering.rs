//! Which packets of a device reach the sockets: the maps, the program and its attachment.
//!
//! The rules are a table before they are code: docs/steering.md, which the test in this module runs row by row.
//!
//! ```text
//!   Steering (one per process)                 Attachment (one per device)
//!   ┌───────────────────────────────┐          ┌──────────────────────────────┐
//!   │ local addresses, prefixes,    │◄─────────│ program, attached by a link  │
//!   │ exempt set, ESP-in-UDP ports, │   reads  │ sockets by receive queue     │
//!   │ posture, drop counter         │          │ the device's MAC address     │
//!   └───────────────────────────────┘          └──────────────────────────────┘
//! ```

use crate::asm::AsmError;
use crate::bpf::{AttachMode, Map, MapKind, Program, Rejected};
use crate::device::Device;
use core::num::NonZeroU16;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

mod program;
mod tables;

pub use tables::{Exempt, HostTraffic, Prefix, Sides, Tables};

use tables::{Change, Entries, MapName};

/// Own addresses at most; more than a host carries, and what a full map costs stays small.
const MAX_LOCAL: u32 = 4096;
/// Exempt entries of a family at most, from the configuration.
const MAX_EXEMPT: u32 = 4096;
/// Prefixes of a family at most: a million road warriors each with an address of their own. A trie pays for what
/// it holds only.
const MAX_PREFIXES: u32 = 1 << 20;
/// VLAN identifiers (IEEE 802.1Q §9.6).
const VLANS: u32 = 4096;
/// Receive queues of one device at most.
const MAX_QUEUES: u32 = 1024;

/// What happens to packets that should reach a socket and cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posture {
    /// Those the program would give to a socket are dropped: workers are not ready. The first posture.
    Closed,
    /// Those that a policy may touch are dropped if their queue has no socket; protected ones for us go to the
    /// kernel then.
    Guarded,
    /// All go to the kernel if their queue has no socket, perhaps in clear: the operator's choice.
    Open,
}

/// Why steering could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// A map could not be made or changed; `QuotaExceeded` or `ArgumentListTooLong` when it is full.
    #[error("steering map: {0}")]
    Map(#[source] io::Error),
    /// The kernel did not take the program.
    #[error("steering program: {0}")]
    Program(#[from] Rejected),
    /// The program could not be put together: a fault of this crate.
    #[error("steering program: {0}")]
    Assembly(String),
    /// The program could not be attached; `ResourceBusy` when the device has another.
    #[error("attaching to the device: {0}")]
    Attach(#[source] io::Error),
}

impl From<AsmError> for SteeringError {
    fn from(e: AsmError) -> Self {
        Self::Assembly(e.to_string())
    }
}

/// The maps that all devices share.
#[derive(Debug)]
struct Maps {
    local4: Map,
    local6: Map,
    encapsulation_ports: Map,
    exempt4: Map,
    exempt6: Map,
    prefixes4: Map,
    prefixes6: Map,
    posture: Map,
    drops: Map,
}

impl Maps {
    fn new() -> io::Result<Self> {
        Ok(Self {
            local4: Map::new(MapKind::Hash, 4, 4, MAX_LOCAL)?,
            local6: Map::new(MapKind::Hash, 16, 4, MAX_LOCAL)?,
            encapsulation_ports: Map::new(MapKind::Hash, 4, 4, 64)?,
            exempt4: Map::new(MapKind::LpmTrie, 12, 4, MAX_EXEMPT)?,
            exempt6: Map::new(MapKind::LpmTrie, 24, 4, MAX_EXEMPT)?,
            prefixes4: Map::new(MapKind::LpmTrie, 8, 4, MAX_PREFIXES)?,
            prefixes6: Map::new(MapKind::LpmTrie, 20, 4, MAX_PREFIXES)?,
            posture: Map::new(MapKind::Array, 4, 4, 1)?,
            drops: Map::new(MapKind::Array, 4, 8, 1)?,
        })
    }

    fn named(&self, name: MapName) -> &Map {
        match name {
            MapName::Local4 => &self.local4,
            MapName::Local6 => &self.local6,
            MapName::EncapsulationPorts => &self.encapsulation_ports,
            MapName::Exempt4 => &self.exempt4,
            MapName::Exempt6 => &self.exempt6,
            MapName::Prefixes4 => &self.prefixes4,
            MapName::Prefixes6 => &self.prefixes6,
        }
    }
}

/// The rules, in force on every device they are attached to.
#[derive(Debug)]
pub struct Steering {
    maps: Maps,
    /// What was last asked for, or while a change has failed half way, what holds at most.
    tables: Tables,
    /// What the maps hold.
    entries: Entries,
}

impl Steering {
    /// Makes the maps, with these rules and [`Posture::Closed`].
    ///
    /// # Errors
    /// [`SteeringError::Map`]: without CAP_BPF and CAP_NET_ADMIN, or for too many entries.
    pub fn new(tables: &Tables) -> Result<Self, SteeringError> {
        let maps = Maps::new().map_err(SteeringError::Map)?;
        let mut steering = Self { maps, tables: Tables::default(), entries: Entries::default() };
        steering.set_posture(Posture::Closed)?;
        steering.update(tables)?;
        Ok(steering)
    }

    /// Changes to these rules without a gap: a packet that both the old and the new rules give to a socket is
    /// given to it at every moment between.
    ///
    /// # Errors
    /// [`SteeringError::Map`] when a map is full. The rules are then between the old and the new, without
    /// a gap; another call goes on from there.
    pub fn update(&mut self, tables: &Tables) -> Result<(), SteeringError> {
        let between = self.tables.union(tables);
        for target in [&between, tables] {
            // While it is under way the rules are some part of the union.
            self.tables.clone_from(&between);
            for change in self.entries.changes(&target.entries()) {
                match &change {
                    Change::Set(map, key, value) => {
                        self.maps.named(*map).set(key, &value.to_ne_bytes())
                    }
                    Change::Remove(map, key) => self.maps.named(*map).remove(key),
                }
                .map_err(SteeringError::Map)?;
                self.entries.apply(change);
            }
        }
        self.tables.clone_from(tables);
        Ok(())
    }

    /// Changes the posture of all devices at once.
    ///
    /// # Errors
    /// [`SteeringError::Map`], which does not happen to a map that exists.
    pub fn set_posture(&self, posture: Posture) -> Result<(), SteeringError> {
        let word = match posture {
            Posture::Closed => program::CLOSED,
            Posture::Guarded => program::GUARDED,
            Posture::Open => program::OPEN,
        };
        self.maps.posture.set(&[0; 4], &word.to_ne_bytes()).map_err(SteeringError::Map)
    }

    /// Packets dropped by the posture so far, on all devices.
    ///
    /// # Errors
    /// [`SteeringError::Map`], which does not happen to a map that exists.
    pub fn drops(&self) -> Result<u64, SteeringError> {
        let value = self.maps.drops.get(&[0; 4]).map_err(SteeringError::Map)?;
        Ok(value.try_into().map_or(0, u64::from_ne_bytes))
    }

    /// Attaches to a device, in these modes in order until one works: to its frames with this VLAN tag, or to those without.
    ///
    /// # Errors
    /// That of the last mode.
    pub fn attach(
        &self,
        device: &Device,
        vlan: Option<NonZeroU16>,
        modes: &[AttachMode],
    ) -> Result<Attachment, SteeringError> {
        self.attach_to(device, &[vlan], modes)
    }

    /// As [`attach`](Self::attach), to the frames of several VLANs; `None` are those without a tag.
    ///
    /// # Errors
    /// That of the last mode.
    pub fn attach_to(
        &self,
        device: &Device,
        vlans: &[Option<NonZeroU16>],
        modes: &[AttachMode],
    ) -> Result<Attachment, SteeringError> {
        let mut loaded = self.load(Some(device.address()))?;
        loaded.set_vlans(vlans)?;
        let mut failure = io::ErrorKind::InvalidInput.into();
        for mode in modes {
            match loaded.program.attach(device.index(), *mode) {
                Ok(link) => return Ok(Attachment { link, loaded, mode: *mode }),
                Err(e) => failure = e,
            }
        }
        Err(SteeringError::Attach(failure))
    }

    /// Loads the program of a device, of which it takes the frames to this address (or any) without a tag.
    fn load(&self, address: Option<[u8; 6]>) -> Result<Loaded, SteeringError> {
        let station = Map::new(MapKind::Array, 4, 8, 1).map_err(SteeringError::Map)?;
        let vlans = Map::new(MapKind::Array, 4, 4, VLANS).map_err(SteeringError::Map)?;
        let sockets = Map::new(MapKind::Sockets, 4, 4, MAX_QUEUES).map_err(SteeringError::Map)?;
        let program = self.program(&station, &vlans, &sockets)?;
        let mut loaded = Loaded { program, station, vlans, sockets, taken: BTreeSet::new() };
        loaded.set_station(address)?;
        loaded.set_vlans(&[None])?;
        Ok(loaded)
    }
}

impl Steering {
    fn program(&self, station: &Map, vlans: &Map, sockets: &Map) -> Result<Program, SteeringError> {
        let code = program::assemble(&self.maps, station, vlans, sockets)?;
        Ok(Program::load("culvert_steer", &code)?)
    }

    /// Attaches the program anew, without a gap, because the device has other queues than before: a driver may not have set
    /// it on those that came up (veth does not), and their packets went past it.
    ///
    /// # Errors
    /// [`SteeringError::Program`]; [`SteeringError::Attach`] when the device is gone. What was attached stays.
    pub fn renew(&self, attachment: &mut Attachment) -> Result<(), SteeringError> {
        let Attachment { link, loaded, .. } = attachment;
        // The kernel takes the same program for no change.
        let program = self.program(&loaded.station, &loaded.vlans, &loaded.sockets)?;
        program.replace(link.as_fd()).map_err(SteeringError::Attach)?;
        loaded.program = program;
        Ok(())
    }
}

/// The program and the maps of one device.
#[derive(Debug)]
struct Loaded {
    program: Program,
    station: Map,
    vlans: Map,
    sockets: Map,
    /// The VLANs whose frames it takes; 0 are those without a tag.
    taken: BTreeSet<u32>,
}

impl Loaded {
    fn set_station(&self, address: Option<[u8; 6]>) -> Result<(), SteeringError> {
        // { address, whether it matters }
        let mut value = [0; 8];
        if let Some(address) = address {
            value[..6].copy_from_slice(&address);
            value[6] = 1;
        }
        self.station.set(&[0; 4], &value).map_err(SteeringError::Map)
    }

    fn set_vlans(&mut self, vlans: &[Option<NonZeroU16>]) -> Result<(), SteeringError> {
        let wanted: BTreeSet<u32> =
            vlans.iter().map(|vlan| vlan.map_or(0, NonZeroU16::get).into()).collect();
        for (vlan, taken) in self
            .taken
            .difference(&wanted)
            .map(|vlan| (vlan, 0u32))
            .chain(wanted.difference(&self.taken).map(|vlan| (vlan, 1)))
        {
            self.vlans
                .set(&vlan.to_ne_bytes(), &taken.to_ne_bytes())
                .map_err(SteeringError::Map)?;
        }
        self.taken = wanted;
        Ok(())
    }

    fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        self.sockets
            .set(&queue.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
            .map_err(SteeringError::Map)
    }
}

/// The rules on one device. Dropping it, or the end of the process however it comes, detaches the program and
/// leaves the device to the kernel.
#[derive(Debug)]
pub struct Attachment {
    link: OwnedFd,
    loaded: Loaded,
    mode: AttachMode,
}

impl Attachment {
    /// The mode that worked.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Gives a queue's packets to a port's socket, until that is closed.
    ///
    /// # Errors
    /// [`SteeringError::Map`] for a queue number beyond 1023.
    pub fn steer(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        self.loaded.set_socket(queue, socket)
    }

    /// Follows a change of the device's MAC address.
    ///
    /// # Errors
    /// [`SteeringError::Map`], which does not happen to a map that exists.
    pub fn set_address(&self, address: [u8; 6]) -> Result<(), SteeringError> {
        self.loaded.set_station(Some(address))
    }
}

#[cfg(test)]
mod tests;
