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
