"""Policies and what SAs live for: lifetimes by volume, keywords, soft SAs, acquires, route-based tunnels."""

from lab import Charon, Culvert, check, eventually, scenario
from traffic import accounted, moved_exactly

TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


# --- lifetimes ---------------------------------------------------------------------------------------------------


def living(lab, lifetime, peer_lifetime="rekey_time = 0"):
    """Culvert as A, strongSwan as B, and what A's child lives for."""
    a, b = lab.pair()
    conf = {side: scenario("ikev2-psk", side) for side in "ab"}
    for side, text in (("a", lifetime), ("b", peer_lifetime)):
        child, found = "start_action = none\n        rekey_time = 0", conf[side]
        check(child in found, "the scenario's child is not as it was")
        conf[side] = found.replace(child, f"start_action = none\n{text}", 1)
    peer, ours = Charon(b, conf["b"]), Culvert(a, conf["a"])
    ours.initiate()
    return ours, peer, a, ("10.77.1.1", "10.77.2.1")


@test
def rekeyed_by_packets(lab):
    """An SA asks for its successor after 30 to 50 packets, and no packet is lost by it."""
    ours, _, here, net = living(lab, """
        rekey_time = 0
        rekey_packets = 50
        rand_packets = 20
        life_packets = 100""")
    here.ping(*net, count=400, interval=0.01)
    rekeys, active = ours.rows("quick_mode.rekeys", "quick_mode.active_sas")
    check(7 <= rekeys <= 14, f"{rekeys} rekeys for 400 packets each way")
    print(f"    {rekeys} rekeys for 400 packets each way, none lost")
    accounted(ours)


@test
def rekeyed_by_bytes(lab):
    """The same by bytes: 84 a packet."""
    ours, _, here, net = living(lab, """
        rekey_time = 0
        rekey_bytes = 4k
        rand_bytes = 1k
        life_bytes = 9k""")
    here.ping(*net, count=400, interval=0.01)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(7 <= rekeys <= 11, f"{rekeys} rekeys for 400 packets of 84 bytes each way")
    print(f"    {rekeys} rekeys for 400 packets of 84 bytes each way, none lost")
    accounted(ours)


def ends_exactly(lab, lifetime, packets):
    ours, peer, here, net = living(lab, lifetime)
    names = ("quick_mode.tunnel_bytes_sent", "quick_mode.tunnel_bytes_received")
    before = ours.rows(*names)
    answered = here.ping(*net, count=packets + 10, interval=0.05, ok=False)
    check(answered == packets, f"{answered} answers, not {packets}")
    moved_exactly(ours, names, before, [84 * packets] * 2, f"{packets} packets of 84 bytes")
    check(ours.rows("quick_mode.active_sas", "quick_mode.key_deletions") == [0, 1], "the SA is gone")
    eventually("the peer's SA to go", lambda: "net" not in peer.swanctl("--list-sas").stdout)
    accounted(ours)


@test
def ended_by_packets(lab):
    """A hard limit without a soft one: 25 packets and not one more, then the SA is deleted at both ends."""
    ends_exactly(lab, """
        rekey_time = 0
        life_packets = 25""", 25)


@test
def ended_by_bytes(lab):
    """11 packets of 84 bytes are 924; the twelfth would pass 1000 and is refused."""
    ends_exactly(lab, """
        rekey_time = 0
        life_bytes = 1000""", 11)


@test
def lifetimes_by_time(lab):
    """Rekeyed each 2 to 3 seconds; and where the soft time is never, deleted when the hard one is over."""
    ours, _, here, net = living(lab, """
        rekey_time = 3s
        rand_time = 1s
        life_time = 6s""")
    here.ping(*net, count=160, interval=0.05)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(2 <= rekeys <= 4, f"{rekeys} rekeys in 8 s")
    accounted(ours)


@test
def rekeyed_by_the_peers_packets(lab):
    """The other way round: strongSwan's SAs ask after 50 packets."""
    ours, _, here, net = living(lab, "rekey_time = 0", """
        rekey_time = 0
        rekey_packets = 50
        rand_packets = 20
        life_packets = 100""")
    here.ping(*net, count=200, interval=0.02)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(3 <= rekeys <= 7, f"{rekeys} rekeys for 200 packets each way")
    accounted(ours)


# --- soft SAs ----------------------------------------------------------------------------------------------------


FILTER = """
  filters {{
    net {{
      connection = gw
      child = net
      {}
    }}
{}
  }}
"""

UNPROTECTED = """unprotected = when_silent
      unprotected_after = 1s
      unprotected_for = 4s"""


def to_the_peers_network(lab):
    """The clear way there and back, which a soft SA's packets take."""
    a, b = lab.hosts["A"], lab.hosts["B"]
    a.route("10.77.2.0/24", "via", "192.168.77.2", "dev", "wan0")
    b.route("10.77.1.0/24", "via", "192.168.77.1", "dev", "wan0")


@test
def soft_sa(lab):
    """A peer without IKE: what waits goes in clear after a second, and is protected again when the peer speaks IKE."""
    a, b = lab.pair()
    to_the_peers_network(lab)
    net = ("10.77.1.1", "10.77.2.1")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    ours = Culvert(a, conf, FILTER.format(UNPROTECTED, ""))
    check("read and forge" in ours.log.read_text(), "no warning of what is given away")
    rows = ("main_mode.soft_associations", "main_mode.total_acquire", "main_mode.acquire_failures", "quick_mode.active_sas",
            "quick_mode.key_additions")
    answered = a.ping(*net, count=15, interval=0.2, ok=False, extra=("-W", 5))
    check(answered == 15, f"{answered} of 15: the first ones wait, then all go in clear; {ours.drops()}")
    check(ours.rows(*rows) == [1, 1, 0, 1, 0], f"{dict(zip(rows, ours.rows(*rows)))}")
    check("UNPROTECTED" in ours.log.read_text(), "the log does not say it")
    # The soft SA ends, and with it the permission: the next packet asks again.
    eventually("the soft SA to end", lambda: ours.rows("quick_mode.active_sas") == [0])
    before = ours.rows("quick_mode.key_additions")
    peer = Charon(b, scenario("ikev2-psk", "b"))
    b.run("ip", "route", "del", "10.77.1.0/24", "via", "192.168.77.1", "dev", "wan0")
    a.ping(*net, count=5)
    found = ours.rows("main_mode.soft_associations", "quick_mode.active_sas", "quick_mode.key_additions")
    check(found == [1, 1, before[0] + 1], f"with IKE the tunnel comes up: {found}")
    check("net" in peer.swanctl("--list-sas").stdout, "strongSwan has no SA")
    accounted(ours)


@test
def no_soft_sa(lab):
    """Without permission nothing goes in clear, and neither does it when the peer speaks IKE and refuses."""
    a, b = lab.pair()
    to_the_peers_network(lab)
    net = ("10.77.1.1", "10.77.2.1")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    ours = Culvert(a, conf)
    check(a.ping(*net, count=3, ok=False) == 0, "answered in clear")
    ours.stop()
    Charon(b, scenario("ikev2-psk", "b"))
    ours = Culvert(a, conf.replace("interop-psk-0123456789", "another"), FILTER.format(UNPROTECTED, ""))
    check(a.ping(*net, count=10, ok=False) == 0, "answered in clear by a peer that refused")
    found = ours.rows("main_mode.soft_associations", "main_mode.authentication_failures")
    check(found[0] == 0 and found[1] >= 1, f"{found}")
    accounted(ours)


# --- keywords ----------------------------------------------------------------------------------------------------


@test
def keywords_follow_the_host(lab):
    """`%my_ip` and `%dns` become addresses, and others when the host's change; charon at the other end has wide selectors."""
    a, b = lab.pair()
    resolv = lab.dir / "resolv.conf"
    resolv.write_text("nameserver 10.77.2.1\n")
    b.address("10.77.2.53/32")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    filters = FILTER.format("local_ts = %my_ip\n      remote_ts = %dns", f"    resolv_conf = {resolv}")
    peer, ours = Charon(b, scenario("ikev2-psk", "b")), Culvert(a, conf, filters)
    a.ping("10.77.1.1", "10.77.2.1")
    check("10.77.2.1/32" in peer.swanctl("--list-sas").stdout, peer.swanctl("--list-sas").stdout)
    # Another server; the old address has no policy any more, the new one has.
    resolv.write_text("nameserver 10.77.2.53\n")
    eventually("the keyword to be followed", lambda: "other addresses now" in ours.log.read_text(), seconds=5)
    a.ping("10.77.1.1", "10.77.2.53")
    check("10.77.2.53/32" in peer.swanctl("--list-sas").stdout, "no SA for the new server")
    # Another address of our own.
    said = ours.log.read_text().count("other addresses now")
    a.address("10.77.1.99/32")
    eventually("the new address", lambda: ours.log.read_text().count("other addresses now") > said, seconds=5)
    a.ping("10.77.1.99", "10.77.2.53")
    accounted(ours)
