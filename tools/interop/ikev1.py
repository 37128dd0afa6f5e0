"""IKEv1 opposite strongSwan, both ways: main mode and quick mode, rekeys, several children, dead peers."""

import signal
import sys
import time

from lab import Charon, Culvert, check, eventually, scenario, stop

TESTS = {}


def pair(lab, name, role):
    """Culvert in its role (the initiator is A) and strongSwan at the other end."""
    hosts = dict(zip("AB", lab.pair()))
    here, there = ("A", "B") if role == "initiator" else ("B", "A")
    conf = {side: scenario(name, side.lower()) for side in hosts}
    net = ("10.77.1.1", "10.77.2.1") if role == "initiator" else ("10.77.2.1", "10.77.1.1")
    return Culvert(hosts[here], conf[here]), Charon(hosts[there], conf[there]), hosts[here], net


def initiate(ours, peer, role, child="net"):
    if role == "initiator":
        ours.initiate(child)
    else:
        peer.swanctl("--initiate", "--child", child, "--timeout", 10)


def both_roles(name):
    def decorate(function):
        for role in ("initiator", "responder"):
            def run(lab, role=role):
                function(lab, role, *pair(lab, name, role))

            TESTS[f"{function.__name__}_{role}"] = run
        return function

    return decorate


def plain(lab, role, ours, peer, here, net):
    """A tunnel, its figures, its end."""
    initiate(ours, peer, role)
    rows = ("main_mode.ike_main_mode", "main_mode.ike_quick_mode", "main_mode.key_additions", "main_mode.total_get_spi",
            "main_mode.negotiation_failures", "main_mode.authentication_failures", "quick_mode.active_sas", "quick_mode.rekeys")
    eventually("the children", lambda: ours.rows("quick_mode.active_sas") == [1], seconds=3)
    found = dict(zip(rows, ours.rows(*rows)))
    check(list(found.values()) == [1, 1, 1, 1, 0, 0, 1, 0], f"{found}")
    for size in (56, 500, 1300):
        here.ping(*net, size=size)
    moved = ("quick_mode.confidential_bytes_sent", "quick_mode.confidential_bytes_received")
    sent = 3 * sum(size + 28 for size in (56, 500, 1300))
    eventually("nine pings' bytes", lambda: ours.rows(*moved) == [sent] * 2, seconds=2)
    ours.command("terminate", "--ike", "gw")
    eventually("strongSwan's SA to go", lambda: not peer.swanctl("--list-sas").stdout.strip())
    check(ours.rows("quick_mode.active_sas", "quick_mode.key_deletions") == [0, 1], "one pair deleted")


@both_roles("ikev1-psk")
def ikev1_psk(lab, role, ours, peer, here, net):
    plain(lab, role, ours, peer, here, net)


@both_roles("c1-aes256-sha512")
def ikev1_aes256_sha512(lab, role, ours, peer, here, net):
    plain(lab, role, ours, peer, here, net)


@both_roles("ikev1-rekey")
def ikev1_rekey(lab, role, ours, peer, here, net):
    """Quick modes each 5 s and a new main mode after 12 s, by both sides' own timers, with pings going on."""
    initiate(ours, peer, role)
    here.ping(*net, count=3)
    answered = here.ping(*net, count=320, interval=0.05, ok=False)
    quick, main = ours.rows("quick_mode.rekeys", "main_mode.ike_main_mode")
    check(quick >= 2 and main >= 2, f"{quick} quick mode rekeys, {main} main modes")
    check(answered == 320, f"{answered} of 320 pings answered; {ours.drops()}")
    active, = ours.rows("quick_mode.active_sas")
    print(f"    {quick} rekeys, {main} main modes, 320 of 320 pings, {active} pairs")


@both_roles("ikev1-multi-child")
def ikev1_multi_child(lab, role, ours, peer, here, net):
    """Three quick modes under one main mode."""
    for name, n in (("A", 1), ("B", 2)):
        for child in (1, 2):
            lab.hosts[name].address(f"10.77.{n}{child}.1/32")
    for n, child in enumerate(("n1", "n2", "n3")):
        initiate(ours, peer, role, child)
        eventually(f"{n + 1} children", lambda: ours.rows("quick_mode.active_sas") == [n + 1], seconds=3)
    check(ours.rows("main_mode.ike_main_mode", "main_mode.ike_quick_mode") == [1, 3], "one main mode, three quick modes")
    here.ping(*net)
    near, far = (address.split(".")[2] for address in net)
    for child in (1, 2):
        here.ping(f"10.77.{near}{child}.1", f"10.77.{far}{child}.1")


@both_roles("ikev1-dpd")
def ikev1_dpd(lab, role, ours, peer, here, net):
    """A living peer is asked and stays, a silent one goes."""
    initiate(ours, peer, role)
    time.sleep(5)
    check(ours.rows("quick_mode.active_sas") == [1], "the SA lives while the peer answers")
    said = peer.text()
    check("DPD" in said, "strongSwan saw no R_U_THERE")
    peer.process.send_signal(signal.SIGSTOP)
    try:
        eventually("the dead peer to be noticed", lambda: ours.rows("quick_mode.active_sas") == [0], seconds=30)
    finally:
        peer.process.send_signal(signal.SIGCONT)


def wrong_psk(lab):
    """A key that does not match: the fifth message says nothing, and three statistics move."""
    a, b = lab.pair()
    ours = Culvert(b, scenario("ikev1-psk", "b"))
    peer = Charon(a, scenario("ikev1-psk", "a").replace("interop-psk-0123456789", "another-psk"))
    done = peer.swanctl("--initiate", "--child", "net", "--timeout", 5, ok=False)
    check(done.returncode != 0, "the SA came up")
    rows = ("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.invalid_packets_received",
            "main_mode.ike_main_mode")
    found = dict(zip(rows, ours.rows(*rows)))
    check(list(found.values()) == [1, 1, 1, 0], f"{found}")


TESTS["ikev1_wrong_psk"] = wrong_psk


def refused_initiator(lab):
    """strongSwan refuses our identity, and says so under the keys of phase 1: we are told, and stop at once."""
    a, b = lab.pair()
    another = scenario("ikev1-psk", "b").replace("id = a.interop.test", "id = another.interop.test")
    peer = Charon(b, another.replace("id-1 = a.interop.test", "id-1 = a.interop.test\n    id-3 = another.interop.test"))
    ours = Culvert(a, scenario("ikev1-psk", "a"))
    begun = time.monotonic()
    ours.initiate(ok=False)
    check(time.monotonic() - begun < 3, "it was not heard")
    check("AUTH_FAILED" in peer.text(), peer.text()[-500:])
    rows = ("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.acquire_failures", "main_mode.ike_main_mode",
            "main_mode.isadb_list_size")
    found = dict(zip(rows, ours.rows(*rows)))
    check(list(found.values()) == [1, 1, 1, 0, 0], f"{found}")


TESTS["ikev1_refused_initiator"] = refused_initiator


FLOOD = """
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range({count}):
    udp.sendto(b"stranger" + bytes(1400), ("192.168.77.1", 500))
"""


def socket_failures(lab):
    """Send Failures and Receive Failures: a peer that no route leads to, and datagrams that the kernel had no room for."""
    a, b = lab.pair()
    conf = scenario("ikev1-psk", "a").replace("192.168.77.2", "203.0.113.9")
    ours = Culvert(a, conf)
    rows = ("main_mode.send_failures", "main_mode.receive_failures", "main_mode.invalid_packets_received")
    check(ours.rows(*rows[:2]) == [0, 0], "nothing has failed yet")
    asking = a.start(lab.binary, "initiate", "--child", "net", "--socket", ours.socket)
    eventually("a send failure", lambda: ours.rows(rows[0])[0] >= 1, seconds=5)
    stop(asking)
    ours.process.send_signal(signal.SIGSTOP)
    try:
        b.run(sys.executable, "-c", FLOOD.format(count=20000))
    finally:
        ours.process.send_signal(signal.SIGCONT)
    # The kernel tells of the losses with the next datagram that it has room for.
    time.sleep(1)
    b.run(sys.executable, "-c", FLOOD.format(count=1))
    eventually("receive failures", lambda: ours.rows(rows[1])[0] >= 1, seconds=5)
    lost, bad = ours.rows(*rows[1:])
    check(lost + bad == 20001, f"{lost} lost and {bad} read, of 20,001")
    print(f"    {lost} datagrams lost, {bad} read, of 20,001")


TESTS["ikev1_socket_failures"] = socket_failures
