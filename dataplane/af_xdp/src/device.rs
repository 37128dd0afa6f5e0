//! What has to be known of a network device before its queues are opened.

use crate::syscall;
use std::ffi::CString;
use std::io;

/// A network device of this network namespace, as it was when it was looked up.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    index: u32,
    address: [u8; 6],
    mtu: u32,
    queues: u32,
    transmit_queues: u32,
    runs: bool,
    large_receive: bool,
    generic_receive: bool,
    strips_vlan: bool,
}

/// Something a device or the stack does to received packets that a port must have off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// See [`Device::generic_receive`]; in generic mode only.
    GenericReceive,
    /// See [`Device::large_receive`].
    LargeReceive,
    /// See [`Device::strips_vlan`].
    VlanStripping,
}

impl Device {
    /// Looks a device up.
    ///
    /// # Errors
    /// `NotFound` for none of this name, or another error of the system.
    pub fn by_name(name: &str) -> io::Result<Self> {
        let c_name = CString::new(name)?;
        let index = syscall::interface_index(&c_name)?;
        let socket = syscall::ioctl_socket()?;
        let query = syscall::InterfaceQuery::new(&socket, &c_name)?;
        let flags = query.ethtool_flags().unwrap_or(0);
        // A driver that has no notion of channels has one queue.
        let (queues, transmit_queues) = query.channels().unwrap_or((1, 1));
        Ok(Self {
            name: name.into(),
            index,
            address: query.address()?,
            mtu: query.mtu()?,
            queues: queues.max(1),
            transmit_queues: transmit_queues.max(1),
            runs: query.runs()?,
            generic_receive: query.generic_receive().unwrap_or(false),
            large_receive: flags & syscall::ETH_FLAG_LRO != 0,
            strips_vlan: flags & syscall::ETH_FLAG_RXVLAN != 0,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its MAC address.
    pub fn address(&self) -> [u8; 6] {
        self.address
    }

    /// The longest IP packet, in octets.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Receive queues in use; each needs a socket.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Transmit queues in use. What is given to a socket on a queue without one is lost in the kernel.
    pub fn transmit_queues(&self) -> u32 {
        self.transmit_queues
    }

    /// Whether it is up and has a carrier.
    pub fn runs(&self) -> bool {
        self.runs
    }

    /// Whether it joins TCP segments on receipt, which a router must not.
    pub fn large_receive(&self) -> bool {
        self.large_receive
    }

    /// Whether the stack joins TCP segments of this device on receipt (GRO). In generic mode that comes before the
    /// steering program, and what was joined fits no chunk.
    pub fn generic_receive(&self) -> bool {
        self.generic_receive
    }

    /// Whether it takes VLAN tags out of received frames, so that the steering program cannot tell tagged ones.
    pub fn strips_vlan(&self) -> bool {
        self.strips_vlan
    }

    /// Has at least so many queues of either kind in use, as by `ethtool -L`.
    ///
    /// # Errors
    /// The system's: without CAP_NET_ADMIN, or for more than the device can have.
    pub fn set_queues(&mut self, queues: u32) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        let socket = syscall::ioctl_socket()?;
        let query = syscall::InterfaceQuery::new(&socket, &name)?;
        query.set_channels(queues)?;
        (self.queues, self.transmit_queues) = query.channels()?;
        Ok(())
    }

    /// Turns an offload on or off. Off for a port, and back on when the host is to be left as it was.
    ///
    /// # Errors
    /// The system's: without CAP_NET_ADMIN, or `Unsupported` by a device that does not let it be changed.
    pub fn set_offload(&mut self, offload: Offload, on: bool) -> io::Result<()> {
        let name = CString::new(self.name.as_str())?;
        let socket = syscall::ioctl_socket()?;
        let query = syscall::InterfaceQuery::new(&socket, &name)?;
        let set_flag = |flag: u32| {
            let flags = query.ethtool_flags()?;
            query.set_ethtool_flags(if on { flags | flag } else { flags & !flag })?;
            // A driver may take the request and not follow it.
            match (query.ethtool_flags()? & flag != 0) == on {
                true => Ok(()),
                false => Err(io::Error::from(io::ErrorKind::Unsupported)),
            }
        };
        match offload {
            Offload::GenericReceive => {
                query.set_generic_receive(on)?;
                self.generic_receive = on;
            }
            Offload::LargeReceive => {
                set_flag(syscall::ETH_FLAG_LRO)?;
                self.large_receive = on;
            }
            Offload::VlanStripping => {
                set_flag(syscall::ETH_FLAG_RXVLAN)?;
                self.strips_vlan = on;
            }
        }
        Ok(())
    }
}
