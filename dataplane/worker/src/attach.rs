//! Ports whose devices come and go while the worker runs.

use crate::config::PortId;
use crate::worker::{PortState, Worker};
use af_xdp::{BoundSocket, Port};

impl Worker {
    /// Takes over a socket on a queue of a port.
    pub(crate) fn attach_port(&mut self, id: PortId, socket: BoundSocket) {
        let Some(state) = self.ports.get_mut(usize::from(id.0)) else { return };
        // Refused: it is closed, and what comes to its queue is dropped or the kernel's, as the posture has it.
        let Ok(port) = socket.join(&mut self.pool) else { return };
        match state.port {
            Port::Absent => state.port = Port::Xdp(port),
            Port::Generator(_) | Port::Memory(_) | Port::Xdp(_) => state.more.push(Port::Xdp(port)),
        }
    }

    /// Closes the sockets on a port. What was received is dropped unread; what was to be sent is not sent.
    pub(crate) fn detach_port(&mut self, id: PortId) {
        let Some(state) = self.ports.get_mut(usize::from(id.0)) else { return };
        let PortState { port, more, past, .. } = state;
        for mut queue in more.drain(..).chain([core::mem::replace(port, Port::Absent)]) {
            // What the kernel knew of a device that is gone is gone with it; our own part is not.
            past.add(&queue.counted());
            self.retired.extend(queue.close(&mut self.pool));
        }
    }

    /// Takes back what closed sockets were lent, once the kernel is done with it.
    #[cold]
    pub(crate) fn repossess(&mut self) {
        for retired in core::mem::take(&mut self.retired) {
            self.retired.extend(self.pool.repossess(retired).err());
        }
    }
}
