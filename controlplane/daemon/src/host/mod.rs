//! What the gateway takes from and leaves on its host: devices, routes, neighbours, rules.

pub mod closed;
pub mod mirror;
pub mod netlink;
pub mod proxy;
pub mod surroundings;
#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper; listed in docs/unsafe.md")]
pub mod tun;

/// What can go wrong with the host; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink request failed.
    #[error("netlink: cannot {what}: {source}")]
    Netlink {
        /// The request.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The TUN device cannot be opened.
    #[error("cannot open TUN device {name}: {source} (CAP_NET_ADMIN and /dev/net/tun are needed)")]
    Tun {
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The rules that keep traffic from leaving in clear cannot be put in place.
    #[error(
        "cannot install the fail-closed rules: {0}; install nftables, or set \
         gateway.on_failure = open to run without them"
    )]
    FailClosed(String),
}
