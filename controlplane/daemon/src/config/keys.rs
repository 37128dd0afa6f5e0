//! Every key that may be written, what it means, its default, and what Culvert makes of it.
//!
//! The tables decide what is accepted, and docs/configuration.md is generated from them.

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// It does what swanctl.conf(5) says.
    Full,
    /// Accepted; a value other than the default has no effect but a warning.
    Ignored,
    /// A value other than the default is an error: without it, security or traffic would differ
    /// from what is configured.
    Refused,
}

/// One key of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// As it would be written; empty for none.
    pub(crate) default: &'static str,
    pub(crate) support: Support,
    /// One sentence for the reference.
    pub(crate) meaning: &'static str,
}

const fn full(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, support: Support::Full, meaning }
}

const fn ignored(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, support: Support::Ignored, meaning }
}

const fn refused(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, default, support: Support::Refused, meaning }
}

/// `connections.<conn>`
pub(crate) const CONNECTION: &[Key] = &[
    full("version", "0", "IKE version: 2, or 1 where a peer has no other (RFC 9395); 0 is 2."),
    full(
        "local_addrs",
        "%any",
        "Addresses, prefixes and ranges that the connection answers on; the first single address \
         is the one to initiate from. Host names are an error.",
    ),
    full(
        "remote_addrs",
        "%any",
        "Addresses, prefixes and ranges of the peer; the first single address is the one to \
         initiate to. Host names are an error.",
    ),
    full("local_port", "500", "UDP port to send from; only the ports of `gateway.ike`."),
    full("remote_port", "500", "UDP port of the peer."),
    full(
        "proposals",
        "default",
        "IKE proposals in order of preference. One that cannot be done is left out with a \
         warning while another remains.",
    ),
    full(
        "vips",
        "",
        "Virtual addresses to ask the peer for, one of each family at most; `0.0.0.0` or `::` leaves the choice to it. \
         IKEv1 asks for the first.",
    ),
    full(
        "aggressive",
        "no",
        "IKEv1: aggressive mode in the place of main mode. Three messages, and both identities in clear; \
         answering a stranger costs an exponentiation.",
    ),
    full(
        "pull",
        "yes",
        "IKEv1: the client asks for its virtual address; with `no` the gateway tells it unasked (push mode), and the client waits.",
    ),
    ignored("dscp", "000000", "DSCP of outgoing IKE packets, six binary digits."),
    full("encap", "no", "Forces UDP encapsulation by faking a NAT."),
    full("mobike", "yes", "RFC 4555 MOBIKE; not announced yet, so the default costs nothing."),
    full("dpd_delay", "0s", "Idle time after which the peer's liveness is checked; 0 for never."),
    full(
        "dpd_timeout",
        "0s",
        "IKEv1: time after which a silent peer is dead; 0 leaves it to the retransmissions.",
    ),
    full(
        "fragmentation",
        "yes",
        "Long messages in fragments (RFC 7383, in IKEv1 by vendor ID): `yes`, `accept` (the peer's only), \
         `no`, or `force` (in IKEv1 the first message already; in IKEv2 as `yes`).",
    ),
    ignored("childless", "allow", "Childless initiation (RFC 6023): `allow`, `force` or `never`."),
    full("send_certreq", "yes", "Sends certificate requests."),
    full("send_cert", "ifasked", "Sends certificates: `ifasked`, `always` or `never`."),
    refused("ppk_id", "", "Identity of a postquantum preshared key (RFC 8784)."),
    refused("ppk_required", "no", "Whether that key must be used."),
    full("keyingtries", "1", "Retransmission sequences before initiation fails; 0 is for ever."),
    full(
        "unique",
        "no",
        "What a second IKE SA of one identity means: `never`, `no`, `keep` or `replace`.",
    ),
    full("reauth_time", "0s", "Reauthentication after this time; 0 for never."),
    full("rekey_time", "4h", "IKE rekeying after this time; 0 if only `reauth_time` is set."),
    full(
        "over_time",
        "10% of the longer of rekey_time and reauth_time",
        "Grace after which an SA that could not be rekeyed is given up.",
    ),
    full(
        "rand_time",
        "over_time",
        "Up to this much is taken off the times at random; the default is at most half of them.",
    ),
    full(
        "pools",
        "",
        "Pools that the peer's virtual addresses are taken from; who asks for none gets no child.",
    ),
    refused("if_id_in", "0", "Interface ID of inbound SAs (route-based tunnels)."),
    refused("if_id_out", "0", "Interface ID of outbound SAs (route-based tunnels)."),
    refused("mediation", "no", "Mediation connection."),
    refused("mediated_by", "", "Mediation connection to use."),
    refused("mediation_peer", "", "Identity at the mediation server."),
];

/// `connections.<conn>.local<suffix>` and `remote<suffix>`
pub(crate) const AUTH: &[Key] = &[
    full("round", "0", "Orders the rounds, which Culvert takes in the order of the file."),
    full(
        "auth",
        "pubkey",
        "`psk`; `pubkey`, `rsa`, `ecdsa` or `ed25519`, with a smallest size and the hashes allowed \
         behind it, such as `rsa-3072-sha384-sha512`; `rsa/pss` for RSASSA-PSS; `kerberos` with `version = 1`, on both \
         sides, in a build with that feature; `xauth` in a second round of IKEv1, behind `psk` or RSA: in `local-2` we are \
         asked for name and password, in `remote-2` we ask; or in the only round of one side, where the other has an RSA \
         certificate (hybrid authentication). A connection with `eap` is left out with a warning.",
    ),
    full(
        "id",
        "%any",
        "IKE identity; the local default is the subject of the certificate, or without one the \
         address. No wildcards.",
    ),
    full(
        "certs",
        "",
        "Certificates, relative to x509/: locally to choose from, remotely the only ones that are \
         accepted. Also as sections `cert<suffix> { file = … }`.",
    ),
    full(
        "cacerts",
        "",
        "CA certificates to accept, relative to x509ca/ (remote only). Also as sections \
         `cacert<suffix> { file = … }`.",
    ),
    ignored("pubkeys", "", "Raw public keys, relative to pubkey/."),
    ignored("eap_id", "id", "EAP identity."),
    ignored("aaa_id", "remote-id", "Identity of the server in the EAP method."),
    full("xauth_id", "id", "XAuth user name, of a secret `xauth<suffix>` or `eap<suffix>`."),
    refused("groups", "", "Group memberships to require (remote only)."),
    refused("cert_policy", "", "Certificate policies to require (remote only)."),
    refused("ca_id", "", "Identity that a CA of the peer must have (remote only)."),
    full(
        "revocation",
        "relaxed",
        "Revocation by the lists in x509crl/ (remote only): `relaxed` refuses what is revoked, \
         `strict` also what no current list speaks of; `ifuri` is an error.",
    ),
];

/// `connections.<conn>.children.<child>`
pub(crate) const CHILD: &[Key] = &[
    full("ah_proposals", "", "AH proposals."),
    full("esp_proposals", "default", "ESP proposals, if there are none for AH."),
    refused("sha256_96", "no", "HMAC-SHA-256 with 96 bits, which is not the standard."),
    full("local_ts", "dynamic", "Our side's traffic: `10.0.0.0/8[tcp/80]`, ranges, `dynamic`."),
    full("remote_ts", "dynamic", "The peer's side's traffic."),
    full("rekey_time", "1h", "Rekeying after this time; 0 for never."),
    full("life_time", "110% of rekey_time", "Deleted after this time."),
    full("rand_time", "life_time - rekey_time", "Up to this much is taken off at random."),
    full("rekey_bytes", "0", "Rekeying after so many bytes; k, m, g are powers of 1024."),
    full("life_bytes", "110% of rekey_bytes", "Refused after so many bytes."),
    full("rand_bytes", "life_bytes - rekey_bytes", "Up to this much is taken off at random."),
    full("rekey_packets", "0", "Rekeying after so many packets."),
    full("life_packets", "110% of rekey_packets", "Refused after so many packets."),
    full(
        "rand_packets",
        "life_packets - rekey_packets",
        "Up to this many are taken off at random.",
    ),
    ignored("updown", "", "Script to run when the child comes up and goes down."),
    ignored("hostaccess", "no", "A variable for that script."),
    full(
        "mode",
        "tunnel",
        "`tunnel`, `transport`, `pass` or `drop`; `beet` and `transport_proxy` are errors.",
    ),
    refused("policies", "yes", "Whether policies are installed."),
    ignored("policies_fwd_out", "no", "Forward policies of the kernel; Culvert needs none."),
    full("dpd_action", "clear", "When the peer is dead: `clear`, `trap` or `restart`."),
    refused("ipcomp", "no", "IPComp compression."),
    ignored("inactivity", "0s", "Closes the child after this time without traffic."),
    ignored("reqid", "0", "A fixed reqid of kernel policies; Culvert has none."),
    full("priority", "0", "Policy priority; 0 makes one from the selectors."),
    refused("interface", "", "Restricts the policies to an interface."),
    refused("mark_in", "0/0x00000000", "Netfilter mark of inbound policies."),
    refused("mark_in_sa", "no", "Sets `mark_in` on the SA."),
    refused("mark_out", "0/0x00000000", "Netfilter mark of outbound policies."),
    refused("set_mark_in", "0/0x00000000", "Mark set on decrypted packets."),
    refused("set_mark_out", "0/0x00000000", "Mark set on encrypted packets."),
    full("if_id_in", "0", "The same number as `if_id_out`."),
    full(
        "if_id_out",
        "0",
        "Route-based: of the child's traffic only what the host routes to the device `culvert-<number>`, which is made for it; \
         0 is policy-based.",
    ),
    refused("label", "", "Security label."),
    ignored("label_mode", "system", "How the label is used."),
    full(
        "tfc_padding",
        "0",
        "Pads the packets inside an ESP tunnel to this many bytes, or to what the path takes (`mtu`).",
    ),
    full("replay_window", "32", "Replay window in packets, up to 65536; 0 turns the check off."),
    ignored("hw_offload", "no", "Hardware offload; `yes` is an error."),
    full("copy_df", "yes", "Copies DF to the outer IPv4 header; `no` clears it."),
    full("copy_ecn", "yes", "Copies ECN to and from the outer header (RFC 6040)."),
    full("copy_dscp", "out", "Copies DSCP: `out`, `in`, `yes` (both) or `no`."),
    full(
        "start_action",
        "none",
        "On load: `none`, `trap`, `start`; `trap|start` traps now and comes up with traffic.",
    ),
    full("close_action", "none", "When the peer deletes it: `none`, `trap` or `start`."),
];

/// `secrets.ike<suffix>`, `eap<suffix>`, `xauth<suffix>`, `ntlm<suffix>`, `ppk<suffix>`; any key
/// that begins with `id` is an owner.
pub(crate) const SECRET: &[Key] = &[
    full("secret", "", "The secret: text, `0x` and hexadecimal, or `0s` and Base64."),
    full("id", "", "`id<suffix>`: an identity that the secret is for; none means any."),
];

/// `secrets.private<suffix>`, `rsa<suffix>`, `ecdsa<suffix>`, `pkcs8<suffix>`, `pkcs12<suffix>`,
/// `token<suffix>`
pub(crate) const KEY_SECRET: &[Key] = &[
    full("file", "", "The key file that the passphrase is for, in the directory of that name."),
    full("secret", "", "The passphrase."),
    ignored("handle", "", "CKA_ID of the key (token)."),
    ignored("slot", "", "Slot number (token)."),
    ignored("module", "", "PKCS#11 module (token)."),
    ignored("pin", "", "PIN (token)."),
];

/// `cert<suffix>` and `cacert<suffix>` of a round
pub(crate) const CERTIFICATE: &[Key] = &[
    full("file", "", "The certificate: an absolute path, or relative to x509/ or x509ca/."),
    ignored("handle", "", "CKA_ID of the certificate on a token."),
    ignored("slot", "", "Slot of the token."),
    ignored("module", "", "PKCS#11 module."),
];

/// `authorities.<name>`
pub(crate) const AUTHORITY: &[Key] = &[
    full("cacert", "", "CA certificate, relative to x509ca/."),
    full("file", "", "CA certificate by absolute path."),
    ignored("handle", "", "CKA_ID of the certificate on a token."),
    ignored("slot", "", "Slot of the token."),
    ignored("module", "", "PKCS#11 module."),
    ignored("crl_uris", "", "CRL distribution points."),
    ignored("ocsp_uris", "", "OCSP responders."),
    ignored("cert_uri_base", "", "Base of hash-and-URL certificates."),
];

/// `pools.<name>`; a number is an attribute type, too.
pub(crate) const POOL: &[Key] = &[
    full("addrs", "", "Prefix or range that virtual addresses are taken from."),
    full("dns", "", "DNS servers that are told with an address."),
    ignored("nbns", "", "WINS servers."),
    ignored("dhcp", "", "DHCP servers."),
    ignored("netmask", "", "Netmask."),
    ignored("server", "", "Servers."),
    ignored("subnet", "", "Protected subnets."),
    ignored("split_include", "", "Subnets to tunnel."),
    ignored("split_exclude", "", "Subnets not to tunnel."),
];

/// `gateway`
pub(crate) const GATEWAY: &[Key] = &[
    full(
        "workers",
        "as many as the ports have receive queues",
        "Worker cores. Every queue needs one, so another number is corrected with a warning.",
    ),
    full("idle", "sleep", "What a worker without packets does: `sleep` or `spin`."),
    full(
        "on_failure",
        "closed",
        "`closed`: protected traffic stays blocked while the daemon is down; `open`: it does not.",
    ),
    full(
        "icmp_path_mtu",
        "yes",
        "Whether an ICMP error that quotes an SA lowers the MTU of the path to its peer (RFC 4301 §6.1.1).",
    ),
    full(
        "clamp_mss",
        "no",
        "Whether TCP connections that go into a tunnel are told the segment size that it has room for.",
    ),
    full(
        "legacy",
        "no",
        "Whether the weak algorithms `3des` and `md5` may be used, in children and in phase 1 of IKEv1, and \
         in IKEv1 the groups `modp1024` and `modp1536`; for peers that know no others.",
    ),
    full(
        "aggressive_psk_for_anyone_to_guess",
        "no",
        "Whether aggressive mode with preshared keys is answered. The answer has a hash made with the key, so that \
         anyone who asks with a known identity can guess a weak key at leisure (charon's \
         `i_dont_care_about_security_and_use_aggressive_mode_psk`).",
    ),
];

/// `gateway.ports.<port>`
pub(crate) const PORT: &[Key] = &[
    full("interface", "the name of the section", "The device that AF_XDP takes packets from."),
    full(
        "device",
        "the interface",
        "The device whose queues are opened, where that is another than the one that has the addresses, routes and neighbours: \
         `interface = eth0.10`, `device = eth0`, `vlan = 10`.",
    ),
    full(
        "vlan",
        "none",
        "The VLAN whose tag the frames of this port carry, 1 to 4094. Ports with the same `device` differ in it.",
    ),
    full("queues", "all of the device", "How many of its queues are used."),
    full("mode", "auto", "`auto`, `zerocopy`, `copy` (native driver) or `generic`."),
];

/// `gateway.host`
pub(crate) const HOST: &[Key] =
    &[full("interface", "culvert0", "The TUN that the host's own traffic enters and leaves by.")];

/// `gateway.statistics`
pub(crate) const STATISTICS: &[Key] =
    &[full("file", "/run/culvert/stats", "The shared-memory segment.")];

/// `gateway.vici`
pub(crate) const VICI: &[Key] =
    &[full("socket", "/run/culvert/vici", "The control socket; `unix://` may stand before it.")];

/// `gateway.limits`
pub(crate) const LIMITS: &[Key] = &[
    full("half_open", "1000", "Half-open IKE SAs; more are refused."),
    full("sas", "65536", "SAs of each direction that one worker can own."),
    full("waiting_packets", "256", "Packets of one worker that wait for an SA or a next hop."),
    full("waiting_per_policy", "64", "Of these, for one policy, SPI or next hop."),
    full("icmp_per_second", "200", "ICMP errors of one worker in a second."),
    full("icmp_burst", "50", "ICMP errors of one worker at once, after a time without any."),
];

/// `gateway.filters`
pub(crate) const FILTERS: &[Key] = &[
    full("resolv_conf", "/etc/resolv.conf", "Where `%dns` comes from."),
    full(
        "leases",
        "/run/systemd/netif/leases, /var/lib/dhcp, /var/lib/NetworkManager",
        "Directories with the leases that `%dhcp` and `%wins` come from.",
    ),
    full("dns_servers", "", "Addresses that `%dns` stands for as well."),
    full("dhcp_servers", "", "Addresses that `%dhcp` stands for as well."),
    full("wins_servers", "", "Addresses that `%wins` stands for as well."),
];

/// `gateway.filters.<filter>`
pub(crate) const FILTER: &[Key] = &[
    full("connection", "", "The connection that it is about."),
    full("child", "", "The child of that connection."),
    full(
        "local_ts",
        "the child's",
        "In place of the child's `local_ts`, with the keywords `%my_ip`, `%dns`, `%dhcp`, `%wins` and `%gateway` \
         beside what that takes, each with `[protocol/port]` behind it if need be. They are followed when they \
         change; a child whose keywords stand for nothing has no traffic.",
    ),
    full("remote_ts", "the child's", "The same for `remote_ts`."),
    full(
        "unprotected",
        "never",
        "`when_silent`: while the peer does not answer IKE at all, **this traffic goes in clear and is taken in clear** \
         (a soft SA). Whoever can keep IKE from being answered can so read and forge it.",
    ),
    full("unprotected_after", "3s", "How long the peer is silent before that."),
    full("unprotected_for", "5m", "After this the next packet asks the peer again."),
    full(
        "deliver",
        "forward",
        "`host`: decapsulated packets all go to the host by its TUN, so that its filters and routes decide; `forward`: those \
         that are not for the host are forwarded past it.",
    ),
];

/// `gateway.ike`: what strongswan.conf(5) has under `charon`.
pub(crate) const IKE: &[Key] = &[
    full("retransmit_timeout", "4.0", "Seconds before the first retransmission."),
    full("retransmit_base", "1.8", "Each further one after this many times the last."),
    full("retransmit_tries", "5", "Retransmissions before the peer is given up."),
    full("cookie_threshold", "30", "Half-open IKE SAs from which cookies are asked; 0 never."),
    full("block_threshold", "5", "Half-open IKE SAs of one address from which it is ignored."),
    full("half_open_timeout", "30", "Seconds after which a half-open IKE SA is forgotten."),
    full(
        "kerberos_timeout",
        "10s",
        "How long an answer of Kerberos, which may ask a KDC, is waited for.",
    ),
    full("keep_alive", "20s", "NAT keepalives after this idle time; 0 for none."),
    full("fragment_size", "1280", "Largest IKE datagram sent in one piece, in bytes."),
    full("port", "500", "UDP port of IKE."),
    full("port_nat_t", "4500", "UDP port of IKE and ESP behind the non-ESP marker."),
];

/// A table and what the reference calls its section.
#[cfg(test)]
pub(crate) struct Table {
    pub(crate) section: &'static str,
    pub(crate) keys: &'static [Key],
}

/// All tables in the order of the reference.
#[cfg(test)]
pub(crate) const TABLES: &[Table] = &[
    Table { section: "connections.<conn>", keys: CONNECTION },
    Table { section: "connections.<conn>.local<suffix>, remote<suffix>", keys: AUTH },
    Table {
        section: "cert<suffix> and cacert<suffix> in local<suffix> and remote<suffix>",
        keys: CERTIFICATE,
    },
    Table { section: "connections.<conn>.children.<child>", keys: CHILD },
    Table { section: "secrets.ike<suffix>, eap, xauth, ntlm, ppk", keys: SECRET },
    Table {
        section: "secrets.private<suffix>, rsa, ecdsa, pkcs8, pkcs12, token",
        keys: KEY_SECRET,
    },
    Table { section: "pools.<name>", keys: POOL },
    Table { section: "authorities.<name>", keys: AUTHORITY },
    Table { section: "gateway", keys: GATEWAY },
    Table { section: "gateway.ports.<port>", keys: PORT },
    Table { section: "gateway.host", keys: HOST },
    Table { section: "gateway.statistics", keys: STATISTICS },
    Table { section: "gateway.vici", keys: VICI },
    Table { section: "gateway.limits", keys: LIMITS },
    Table { section: "gateway.filters", keys: FILTERS },
    Table { section: "gateway.filters.<filter>", keys: FILTER },
    Table { section: "gateway.ike", keys: IKE },
];

/// The known name that `wrong` was likely meant to be.
pub(crate) fn nearest<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer ones are nobody's typing error, and the distance costs their product.
    if wrong.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(d, name)| *d <= 1 + name.len() / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Edits (insert, remove, replace) that make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}
