"""IKEv1 through a real NAT opposite strongSwan, in both roles: RFC 3947 and its drafts, tunnels, transport mode, rekeys.

The initiator is behind the router N, which rewrites addresses and ports:

    A 192.168.77.1 ── 192.168.77.254 N 192.168.78.254 ── 192.168.78.2 B
"""

import sys

import ikev1_modes
from lab import HERE, Charon, Culvert, check, eventually, sh, stop

TESTS = {}
PORTS = "20000-29999"


def test(function):
    TESTS[function.__name__] = function
    return function


def both_roles(function):
    for role in ("initiator", "responder"):
        def run(lab, role=role):
            function(lab, role)

        TESTS[f"{function.__name__}_{role}"] = run
    return function


def network(lab):
    a, router, b = (lab.host(name) for name in "ANB")
    lab.wire(a, "wan0", router, "left0")
    lab.wire(router, "right0", b, "wan0")
    a.address("192.168.77.1/24", "wan0")
    router.address("192.168.77.254/24", "left0")
    router.address("192.168.78.254/24", "right0")
    b.address("192.168.78.2/24", "wan0")
    for host, n in ((a, 1), (b, 2)):
        host.address(f"10.77.{n}.1/32")
    return a, router, b


def masquerade(a, router):
    """The kernel's NAT: A's packets come from the router's address and from other ports."""
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    a.route("192.168.78.0/24", "via", "192.168.77.254")
    router.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; };"
               f" add rule ip nat post oifname right0 meta l4proto udp masquerade to :{PORTS};"
               " add rule ip nat post oifname right0 masquerade")


def conf(side, to="192.168.78.2", **more):
    """B does not know A's address; `to` is where A believes B to be."""
    text = ikev1_modes.conf(side, **more)
    if side == "a":
        return text.replace("remote_addrs = 192.168.77.2", f"remote_addrs = {to}")
    return text.replace("local_addrs = 192.168.77.2", "local_addrs = 192.168.78.2").replace(
        "remote_addrs = 192.168.77.1", "remote_addrs = %any")


class Ends(ikev1_modes.Ends):
    """Culvert in its role and strongSwan at the other side of the NAT."""

    def __init__(self, lab, role, prepare=masquerade, make=conf, theirs=None, **more):
        a, self.router, b = network(lab)
        prepare(a, self.router)
        self.lab, self.hosts, self.role = lab, {"a": a, "b": b}, role
        own, other = ("a", "b") if role == "initiator" else ("b", "a")
        self.ours = Culvert(self.hosts[own], make(own, **more))
        self.peer = Charon(self.hosts[other], make(other, **{**more, **(theirs or {})}))
        self.here = self.hosts[own]
        self.net = ("10.77.1.1", "10.77.2.1") if own == "a" else ("10.77.2.1", "10.77.1.1")

    def watched(self):
        return self.lab.capture(self.router, "right0", "udp or esp")

    def on_the_wire(self, capture):
        """Pings went in UDP between the router's address, another port than A's, and B."""
        process, path = capture
        stop(process)
        lines = sh("tcpdump", "-nr", path).stdout.splitlines()
        esp = [line for line in lines if "UDP-encap" in line]
        check(len(esp) >= 6, f"{len(esp)} packets of ESP in UDP: {lines[-3:]}")
        for line in esp:
            outside = next(word for word in line.replace(":", " ").split() if word.startswith("192.168.78.254."))
            check(20000 <= int(outside.rsplit(".", 1)[1]) <= 29999, f"not through the NAT: {line}")
        check(not any("ESP(" in line and "UDP-encap" not in line for line in lines), "ESP without UDP")


@both_roles
def ikev1_nat(lab, role):
    """Main mode changes to port 4500, quick mode agrees on UDP-encapsulated tunnel mode, and A's port is another outside."""
    ends = Ends(lab, role)
    capture = ends.watched()
    ends.works()
    ends.on_the_wire(capture)
    said = ends.peer.text()
    where = "remote host is behind NAT" if role == "initiator" else "local host is behind NAT"
    check(where in said, f"strongSwan does not say: {where}")
    ends.ends()


@both_roles
def ikev1_nat_rekeys(lab, role):
    """Quick modes and main modes again through the NAT, by the timers of both sides, while pings go on."""
    text = {"child": "rekey_time = 3\n life_time = 12\n rand_time = 0",
            "connection": "reauth_time = 7\n over_time = 10\n rand_time = 0"}

    def timed(side, **more):
        # The last one of a key counts for both readers.
        return conf(side, **more).replace("rekey_time = 0\n        rekey_time = 3", "rekey_time = 3")

    ends = Ends(lab, role, make=timed, **text)
    ends.initiate()
    ends.here.ping(*ends.net)
    answered = ends.here.ping(*ends.net, count=180, interval=0.05, ok=False)
    quick, main = ends.ours.rows("quick_mode.rekeys", "main_mode.ike_main_mode")
    check(quick >= 2 and main >= 2, f"{quick} quick mode rekeys, {main} main modes")
    check(answered == 180, f"{answered} of 180 pings answered; {ends.ours.drops()}")
    print(f"    {quick} rekeys, {main} main modes, 180 of 180 pings")


def relayed(*kept):
    """A NAT for both sides in Python, which lets of the first message's NAT-T vendor IDs only `kept` through."""
    def prepare(_, router):
        router.start(sys.executable, HERE / "natt_relay.py", "192.168.77.254", "192.168.78.254", "192.168.78.2", *kept,
                     log=router.lab.dir / "relay")
        eventually("the relay", lambda: "ready" in (router.lab.dir / "relay").read_text())

    return prepare


def as_drafted(lab, role, *kept):
    ends = Ends(lab, role, prepare=relayed(*kept), to="192.168.77.254")
    ends.works()
    relay = (lab.dir / "relay").read_text()
    check("NAT-D as 130" in relay and "NAT-D as 20" not in relay, f"not as the drafts have it: {relay}")
    check("received draft-ietf-ipsec-nat-t-ike-" in ends.peer.text(), "strongSwan has heard of no draft")
    ends.ends()


@both_roles
def ikev1_nat_draft_02(lab, role):
    """Only the draft's vendor ID gets through, with the line feed that strongSwan sends: payload 130 and mode 61443."""
    as_drafted(lab, role, "02n")


@test
def ikev1_nat_draft_03(lab):
    """As initiator we name draft 03 as well; strongSwan takes it."""
    as_drafted(lab, "initiator", "03")


@test
def ikev1_nat_draft_02_plain(lab):
    """And 02 without the line feed."""
    as_drafted(lab, "initiator", "02")


@both_roles
def ikev1_nat_for_both(lab, role):
    """Both are behind a NAT, which knows the way to B: RFC 3947, with the responder's address another than it seems."""
    ends = Ends(lab, role, prepare=relayed("rfc"), to="192.168.77.254")
    ends.works()
    relay = (lab.dir / "relay").read_text()
    check("NAT-D as 20" in relay, relay)
    said = ends.peer.text()
    check("remote host is behind NAT" in said and "local host is behind NAT" in said, "strongSwan sees no two NATs")
    ends.ends()


def hosts(side, to="192.168.78.2", **_):
    """Transport mode between the two hosts themselves."""
    text = conf(side, to=to, child="mode = transport")
    lines = [line for line in text.splitlines() if "_ts =" not in line]
    return "\n".join(lines)


@test
def ikev1_nat_transport(lab):
    """Transport mode through the NAT between two Culvert gateways: TCP, so that wrong checksums would show."""
    a, router, b = network(lab)
    masquerade(a, router)
    there, ours = Culvert(b, hosts("b")), Culvert(a, hosts("a"))
    ours.initiate()
    process, path = lab.capture(router, "right0", "udp")
    a.ping("192.168.77.1", "192.168.78.2", count=5, size=200)
    tcp, _ = a.iperf(b, "192.168.77.1", "192.168.78.2", seconds=1)
    back, _ = a.iperf(b, "192.168.77.1", "192.168.78.2", seconds=1, reverse=True)
    stop(process)
    check("UDP-encap" in sh("tcpdump", "-nr", path, "-c", "50").stdout, "no ESP in UDP")
    moved, tunnel = there.rows("quick_mode.transport_bytes_received", "quick_mode.tunnel_bytes_received")
    check(moved > 1_000_000 and tunnel == 0, f"{moved} and {tunnel} bytes")
    print(f"    behind a NAT: TCP {tcp:.0f} Mbit/s out, {back:.0f} in")
    ours.command("terminate", "--ike", "gw")
    eventually("both to end", lambda: there.rows("quick_mode.active_sas") == [0], seconds=3)


@both_roles
def ikev1_nat_transport_opposite_strongswan(lab, role):
    """It agrees with us on mode 4 and on both NAT-OA; then its userspace ESP, which has tunnels only, has no place for it."""
    ends = Ends(lab, role, make=hosts)
    ends.initiate(ok=role == "initiator")
    said = eventually("the second message", lambda: ("unsupported mode" in (text := ends.peer.text())) and text)
    for what in ("parsed", "generating"):
        kind = {("parsed", "initiator"): "request", ("generating", "initiator"): "response"}.get((what, role))
        kind = kind or {"parsed": "response", "generating": "request"}[what]
        lines = [line for line in said.splitlines() if f"{what} QUICK_MODE {kind}" in line]
        check(lines and "NAT-OA NAT-OA" in lines[0], f"{what}: {lines}")
    check(ends.ours.rows("main_mode.ike_main_mode", "main_mode.invalid_packets_received") == [1, 0], "nothing is wrong with it")
