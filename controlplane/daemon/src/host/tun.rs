//! The host port's TUN device: one queue per worker.

use super::HostError;
use std::os::fd::{AsRawFd, OwnedFd};

// linux/if_tun.h: _IOW('T', 202, int)
mod request {
    nix::ioctl_write_int!(tunsetiff, b'T', 202);
}

/// Opens `queues` queues of the TUN device `name`, which is made when it does not exist and goes
/// with the last queue.
pub fn open(name: &str, queues: usize) -> Result<Vec<OwnedFd>, HostError> {
    let fail = |source: std::io::Error| HostError::Tun { name: name.to_owned(), source };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(fail(std::io::ErrorKind::InvalidInput.into()));
    }
    (0..queues)
        .map(|_| {
            let queue: OwnedFd = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags_nonblocking()
                .open("/dev/net/tun")
                .map_err(fail)?
                .into();
            // SAFETY: `ifreq` is plain old data for which all zeroes is a value.
            let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_flags =
                (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE) as libc::c_short;
            // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which
            // outlives the call and whose name is terminated (checked length above).
            unsafe { request::tunsetiff(queue.as_raw_fd(), (&raw mut request) as libc::c_ulong) }
                .map_err(|e| fail(e.into()))?;
            Ok(queue)
        })
        .collect()
}

/// Keeps the kernel from speaking by itself on a TUN, where nobody is to answer a router solicitation: each would be a packet that no
/// policy or route is for, and hide among the drops those that matter. Without `link_local` the device has no address of its own
/// either, which is what else makes it speak.
///
/// A kernel without IPv6 has none of these.
pub fn quieten(name: &str, link_local: bool) {
    let mut settings = vec![("accept_ra", "0"), ("router_solicitations", "0")];
    if !link_local {
        // IN6_ADDR_GEN_MODE_NONE
        settings.push(("addr_gen_mode", "1"));
    }
    for (key, value) in settings {
        if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value) {
            tracing::debug!(name, key, %error, "the device may speak by itself");
        }
    }
}

trait NonBlocking {
    fn custom_flags_nonblocking(&mut self) -> &mut Self;
}

impl NonBlocking for std::fs::OpenOptions {
    fn custom_flags_nonblocking(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK | libc::O_CLOEXEC)
    }
}
