#!/usr/bin/env python3
"""Culvert against strongSwan and against itself, in network namespaces. Needs root.

  run.py [--binary target/release/culvert] [--keep] [TEST ...]     all tests, or the named ones
  run.py --list
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback

import addresses
import attacks
import certificates
import icmp_errors
import ikev1
import ikev1_both
import ikev1_modes
import ikev1_nat
import ikev1_peer
import ikev1_users
import kerberos
import moves
import policies
import ports
import reassembly
import vici
from lab import ROOT, Charon, Culvert, Failed, Lab, check, eventually, scenario, sh, stop
from sites import four_hosts, PORTS, routed, site, through_a_router
from traffic import accounted, moved_exactly, numbered_traffic, outcome

HERE = ROOT / "tools" / "interop"
TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


# --- opposite strongSwan -----------------------------------------------------------------------------------------


def opposite_strongswan(lab, name, role):
    """Culvert as one end of a scenario, with the scenario's own configuration file."""
    a, b = lab.pair()
    if role == "initiator":
        peer, ours = Charon(b, scenario(name, "b")), Culvert(a, scenario(name, "a"))
        ours.initiate()
        here, there, net = a, b, ("10.77.1.1", "10.77.2.1")
    else:
        peer, ours = Charon(a, scenario(name, "a")), Culvert(b, scenario(name, "b"))
        peer.swanctl("--initiate", "--child", "net")
        here, there, net = b, a, ("10.77.2.1", "10.77.1.1")
    return ours, peer, here, there, net


def bytes_moved_exactly(ours, here, net):
    names = [
        f"quick_mode.{kind}_bytes_{way}" for kind in ("confidential", "authenticated", "tunnel") for way in ("sent", "received")
    ]
    before = ours.rows(*names)
    here.ping(*net, count=5, size=200)
    moved_exactly(ours, names, before, [5 * 228] * 6, "five pings of 228 bytes")


def both_roles(lab, name, role):
    ours, peer, here, there, net = opposite_strongswan(lab, name, role)
    bytes_moved_exactly(ours, here, net)
    rows = ("main_mode.ike_main_mode", "main_mode.ike_quick_mode", "main_mode.key_additions", "main_mode.key_updates",
            "quick_mode.key_additions", "quick_mode.active_sas", "quick_mode.active_tunnels", "quick_mode.rekeys")
    check(ours.rows(*rows) == [1, 1, 1, 1, 1, 1, 1, 0], f"{dict(zip(rows, ours.rows(*rows)))}")
    for size in (56, 500, 1300):
        here.ping(*net, size=size)
    forward, _ = here.iperf(there, *net)
    back, _ = here.iperf(there, *net, reverse=True)
    print(f"    TCP {forward:.0f} Mbit/s out, {back:.0f} Mbit/s in")
    accounted(ours)
    ours.command("terminate", "--ike", "gw")
    check(ours.rows("quick_mode.active_sas", "quick_mode.key_deletions") == [0, 1], "one pair deleted")
    eventually("strongSwan's SA to go", lambda: not peer.swanctl("--list-sas").stdout.strip())


@test
def strongswan_psk_initiator(lab):
    both_roles(lab, "ikev2-psk", "initiator")


@test
def strongswan_psk_responder(lab):
    both_roles(lab, "ikev2-psk", "responder")


@test
def strongswan_aes256gcm16_initiator(lab):
    both_roles(lab, "c2-aes256gcm16", "initiator")


@test
def strongswan_aes256gcm16_responder(lab):
    both_roles(lab, "c2-aes256gcm16", "responder")


def numbered_with_rekeys(ours, peer, here, there, net, rate, what, begun_by, number):
    """Numbered packets both ways with `number` rekeys under them: (lost, received, why it was lost)."""
    each = 0.5
    before = ours.rows("quick_mode.rekeys", "main_mode.ike_main_mode")
    overflowed = here.overflowed() + there.overflowed()
    running = numbered_traffic(here, there, net, rate, 20 * each + 2)
    time.sleep(1)
    for _ in range(number):
        begin = time.monotonic()
        target = ("--child", "net") if what == "child" else ("--ike", "gw")
        if begun_by == "culvert":
            ours.command("rekey", *target)
        else:
            peer.swanctl("--rekey", *target)
        time.sleep(max(0.0, each - (time.monotonic() - begin)))
    sent, got = outcome(*running, 20 * each + 2)
    overflowed = here.overflowed() + there.overflowed() - overflowed
    refused = sum(one["refused"] for one in sent)
    lost = sum(one["lost"] for one in got)
    detail = f"{rate} a second, {number} rekeys: {got}; queues overflowed by {overflowed}, culvert dropped {ours.drops()}"
    check(refused == 0, f"the senders were refused {refused} times")
    check(not any(one["duplicates"] for one in got), detail)
    if number:
        # A packet that a rekey costs is one that no queue was too short for.
        check(lost <= overflowed and not ours.drops(), detail)
    time.sleep(1.5)
    moved = [now - then for now, then in zip(ours.rows("quick_mode.rekeys", "main_mode.ike_main_mode"), before)]
    expected = [number, 0] if what == "child" else [0, number]
    check(moved == expected, f"rekeys, main modes moved by {moved}, not {expected}")
    return lost, sum(one["received"] for one in got), detail


def rekeys_under_traffic(lab, what, begun_by):
    """20 rekeys under 5,000 numbered packets a second each way: none lost, none twice.

    Where the machine cannot carry so many without a rekey, because strongSwan's userspace ESP or a receiver does not get the CPU
    for it, the rate is halved until it can."""
    ends = opposite_strongswan(lab, "ikev2-psk", "initiator")
    for rate in (5000, 2500, 1250, 625, 312):
        for number in (0, 20):
            lost, received, detail = numbered_with_rekeys(*ends, rate, what, begun_by, number)
            if lost:
                print(f"    {detail}")
                break
        else:
            print(f"    {rate} a second: {received} packets, none lost, none twice, {number} {what} rekeys by {begun_by}")
            return accounted(ends[0])
    raise Failed(f"packets are lost at every rate: {detail}")


@test
def child_rekeys_by_culvert(lab):
    rekeys_under_traffic(lab, "child", "culvert")


@test
def child_rekeys_by_strongswan(lab):
    rekeys_under_traffic(lab, "child", "strongswan")


@test
def ike_rekeys_by_culvert(lab):
    rekeys_under_traffic(lab, "ike", "culvert")


@test
def ike_rekeys_by_strongswan(lab):
    rekeys_under_traffic(lab, "ike", "strongswan")


# What kernel-libipsec carries, one of each kind: (IKE proposal, ESP proposal, confidential).
SUITES = [
    ("aes128-sha1-modp2048", "aes128-sha1-modp2048", True),
    ("aes192-sha384-modp3072", "aes192-sha384", True),
    ("aes256-sha512-ecp384", "aes256-sha512-ecp384", True),
    ("aes128ctr-sha256-modp2048", "aes128ctr-sha256", True),
    ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519", True),
    ("aes128gcm16-prfsha256-ecp256", "aes128gcm8", True),
    ("aes256gcm16-prfsha384-ecp256", "aes192gcm12", True),
    ("aes256gcm16-prfsha384-ecp521", "aes256gcm16-ecp521", True),
    ("aes128ccm16-prfsha256-x25519", "aes128ccm16", True),
    ("aes128-sha256-x25519", "aes128-aesxcbc", True),
    ("aes128-sha256-x25519", "aes128-aescmac", True),
    ("aes128-sha256-x25519", "null-sha256", False),
]


@test
def strongswan_suites(lab):
    """Every suite that strongSwan's userspace ESP can do, sealed by one and opened by the other, both ways."""
    a, b = lab.pair()
    for ike, esp, confidential in SUITES:
        texts = [
            scenario("ikev2-psk", side)
            .replace("aes128-sha256-modp2048,aes128gcm16-modp2048", esp)
            .replace("proposals = aes128-sha256-modp2048", f"proposals = {ike}")
            for side in "ab"
        ]
        peer, ours = Charon(b, texts[1]), Culvert(a, texts[0])
        done = ours.initiate(ok=False)
        check(done.returncode == 0, f"{ike} / {esp}: {done.stdout} {done.stderr}")
        names = ("quick_mode.authenticated_bytes_sent", "quick_mode.authenticated_bytes_received",
                 "quick_mode.confidential_bytes_sent", "quick_mode.confidential_bytes_received")
        # Quick mode counters outlive the daemon.
        before = ours.rows(*names)
        for size in (0, 56, 999, 1300):
            a.ping("10.77.1.1", "10.77.2.1", size=size, count=2, interval=0.05)
        size = 2 * sum(28 + n for n in (0, 56, 999, 1300))
        moved_exactly(ours, names, before, [size, size] + [size * confidential] * 2, esp)
        ours.stop()
        peer.stop()
    print(f"    {len(SUITES)} suites")


@test
def strongswan_over_ipv6(lab):
    """IPv4 and IPv6 inside IPv6."""
    a, b = lab.pair()
    for families in ("4", "6"):
        texts = []
        for side in "ab":
            text = scenario("ikev2-psk", side)
            for n in (1, 2):
                text = text.replace(f"192.168.77.{n}", f"fd77::{n}")
                if families == "6":
                    text = text.replace(f"10.77.{n}.0/24", f"fd77:{n}::/64")
            texts.append(text)
        peer, ours = Charon(b, texts[1]), Culvert(a, texts[0])
        ours.initiate()
        net = ("10.77.1.1", "10.77.2.1") if families == "4" else ("fd77:1::1", "fd77:2::1")
        for size in (56, 1200):
            a.ping(*net, size=size)
        tcp, _ = a.iperf(b, *net)
        print(f"    IPv{families} in IPv6: TCP {tcp:.0f} Mbit/s")
        accounted(ours)
        ours.stop()
        peer.stop()


@test
def beside_strongswan_alone(lab):
    """No verdict: TCP through strongSwan at both ends, and through Culvert at one, on the same wire."""
    a, b = lab.pair()
    texts = [
        scenario("ikev2-psk", side).replace("aes128-sha256-modp2048,aes128gcm16-modp2048", "aes128gcm16-modp2048")
        for side in "ab"
    ]
    net = ("10.77.1.1", "10.77.2.1")
    peer, other = Charon(b, texts[1]), Charon(a, texts[0])
    other.swanctl("--initiate", "--child", "net")
    theirs = [a.iperf(b, *net, seconds=3, reverse=reverse)[0] for reverse in (False, True)]
    other.stop()
    peer.stop()
    peer, ours = Charon(b, texts[1]), Culvert(a, texts[0])
    ours.initiate()
    mixed = [a.iperf(b, *net, seconds=3, reverse=reverse)[0] for reverse in (False, True)]
    peer.stop()
    print(f"    strongSwan to strongSwan {theirs[0]:.0f} and {theirs[1]:.0f} Mbit/s,"
          f" Culvert to strongSwan {mixed[0]:.0f} and {mixed[1]:.0f} Mbit/s")


@test
def reload(lab):
    """An error changes nothing that runs; a new child comes, a removed one keeps its SAs."""
    a, b = lab.pair()
    peer, ours = Charon(b, scenario("ikev2-psk", "b")), Culvert(a, scenario("ikev2-psk", "a"))
    ours.initiate()
    text = ours.config.read_text()
    broken = text.replace("        mode = tunnel", "        mode = tunel", 1)
    line = 1 + broken.splitlines().index("        mode = tunel")
    ours.config.write_text(broken)
    done = ours.command("reload", ok=False)
    said = done.stdout + done.stderr
    check(done.returncode != 0 and f"{ours.config}:{line}" in said and "mode" in said, f"reload said: {said}")
    a.ping("10.77.1.1", "10.77.2.1")
    ours.config.write_text(text.replace("net {", "other {").replace("10.77.2.0/24", "10.77.22.0/24"))
    ours.command("reload")
    a.ping("10.77.1.1", "10.77.2.1")
    check(ours.rows("quick_mode.active_sas", "main_mode.ike_main_mode") == [1, 1], "the SAs stay")
    check(ours.initiate("net", ok=False).returncode != 0, "a removed child cannot be initiated")
    accounted(ours)


@test
def wrong_psk(lab):
    a, b = lab.pair()
    Charon(b, scenario("ikev2-psk", "b"))
    ours = Culvert(a, scenario("ikev2-psk", "a").replace("interop-psk-0123456789", "another-psk-0123456789"))
    done = ours.initiate(ok=False)
    check(done.returncode != 0 and "authentication failed" in done.stdout + done.stderr, f"{done.stdout} {done.stderr}")
    rows = ("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.ike_main_mode",
            "main_mode.acquire_failures", "quick_mode.active_sas")
    check(ours.rows(*rows) == [1, 1, 0, 1, 0], f"{dict(zip(rows, ours.rows(*rows)))}")


@test
def wrong_psk_as_responder(lab):
    a, b = lab.pair()
    peer = Charon(a, scenario("ikev2-psk", "a"))
    ours = Culvert(b, scenario("ikev2-psk", "b").replace("interop-psk-0123456789", "another-psk-0123456789"))
    peer.swanctl("--initiate", "--child", "net", ok=False)
    check("AUTHENTICATION_FAILED" in peer.text(), "strongSwan was not told")
    rows = ("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.ike_main_mode")
    check(ours.rows(*rows) == [1, 1, 0], f"{dict(zip(rows, ours.rows(*rows)))}")


@test
def no_common_proposal(lab):
    a, b = lab.pair()
    Charon(b, scenario("ikev2-psk", "b").replace("proposals = aes128-sha256-modp2048\n", "proposals = aes256-sha512-ecp384\n"))
    ours = Culvert(a, scenario("ikev2-psk", "a"))
    done = ours.initiate(ok=False)
    check(done.returncode != 0 and "no proposal" in done.stdout + done.stderr, f"{done.stdout} {done.stderr}")
    check(ours.rows("main_mode.negotiation_failures", "main_mode.authentication_failures") == [1, 0], "one negotiation failure")


@test
def hostile_packets(lab):
    """Truncated IKE, replayed ESP, a flipped bit, an unknown SPI: each is the one counted drop it should be."""
    ours, _, here, there, net = opposite_strongswan(lab, "ikev2-psk", "initiator")
    attacks.run(lab, ours, here, there, net)
    here.ping(*net)
    accounted(ours)


# --- four hosts, both gateways Culvert ---------------------------------------------------------------------------


@test
def four_hosts_two_gateways(lab):
    client, left, right, server, gateways = four_hosts(lab)
    # The first packet raises the acquire and waits for it.
    check(client.ping("10.77.1.10", "10.77.2.10", count=1) == 1, "the first packet waits for the tunnel")
    for size in (56, 64, 512, 1000, 1372, 1400):
        client.ping("10.77.1.10", "10.77.2.10", size=size)
        client.ping("fd77:1::10", "fd77:2::10", size=min(size, 1352))
    for near, far in (("10.77.1.10", "10.77.2.10"), ("fd77:1::10", "fd77:2::10")):
        tcp, _ = client.iperf(server, near, far)
        back, _ = client.iperf(server, near, far, reverse=True)
        sent, got = outcome(*numbered_traffic(client, server, (near, far), 5000, 2), 2)
        for one, other in zip(sent, got):
            check(one["refused"] == 0 and other["lost"] == 0 and other["duplicates"] == 0,
                  f"UDP {near} > {far}: {other}, gateways dropped {[g.drops() for g in gateways]}")
        print(f"    {near} > {far}: TCP {tcp:.0f} and {back:.0f} Mbit/s, 2 x 5,000 UDP packets/s without loss")
    # The interfaces stay the host's: ARP and ND work, and so does what is addressed to the gateway itself.
    left.run("ip", "neigh", "flush", "dev", "wan0")
    left.run("ip", "-6", "neigh", "flush", "dev", "wan0")
    left.ping("192.168.77.1", "192.168.77.2")
    left.ping("fd77::1", "fd77::2")
    ssh_like(client, left, "10.77.1.254")
    ssh_like(left, right, "192.168.77.2")
    client.ping("10.77.1.10", "10.77.2.10")
    for gateway in gateways:
        accounted(gateway)
        check(gateway.rows("quick_mode.active_sas") == [2], "one pair for each family")


def ssh_like(source, target, address):
    """A TCP conversation with the gateway host itself."""
    listener = target.start(sys.executable, "-c", f"""
import socket
s = socket.create_server(({address!r}, 2222))
c, _ = s.accept()
c.sendall(c.recv(100)[::-1])
""")
    time.sleep(0.3)
    done = source.run(sys.executable, "-c", f"""
import socket
s = socket.create_connection(({address!r}, 2222), 5)
s.sendall(b'hello')
print(s.recv(100).decode())
""")
    stop(listener)
    check(done.stdout.strip() == "olleh", f"TCP to the host itself at {address}: {done.stdout} {done.stderr}")


@test
def everything_protected(lab):
    """0.0.0.0/0 towards the peer: the hosts behind, and the host's own neighbours and services still work."""
    children = {
        1: "\n      all { local_ts = 10.77.1.0/24\n remote_ts = 0.0.0.0/0\n esp_proposals = aes128gcm16\n start_action = trap\n }\n",
        2: "\n      all { local_ts = 0.0.0.0/0\n remote_ts = 10.77.1.0/24\n esp_proposals = aes128gcm16\n start_action = none\n }\n",
    }
    client, left, right, server = lab.chain()
    gateways = [
        Culvert(host, site(n, 3 - n, children=children[n]), PORTS.format(workers=1)) for host, n in ((left, 1), (right, 2))
    ]
    client.ping("10.77.1.10", "10.77.2.10")
    ssh_like(client, left, "10.77.1.254")
    left.run("ip", "neigh", "flush", "dev", "wan0")
    left.ping("192.168.77.1", "192.168.77.2")
    for gateway in gateways:
        accounted(gateway)


@test
def fragmented_ipsec_arrives(lab):
    """A router between the gateways fragments what is too big for it; the far kernel reassembles."""
    client, left, router, right, server = (lab.host(name) for name in ("C", "L", "M", "R", "S"))
    lab.wire(client, "eth0", left, "lan0")
    lab.wire(left, "wan0", router, "left0")
    lab.wire(router, "right0", right, "wan0")
    lab.wire(right, "lan0", server, "eth0")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    router.address("192.168.77.2/24", "left0")
    router.address("192.168.78.1/24", "right0")
    router.run("ip", "route", "change", "192.168.78.0/24", "dev", "right0", "mtu", "lock", "1280")
    left.address("192.168.77.1/24", "wan0")
    right.address("192.168.78.2/24", "wan0")
    left.route("192.168.78.0/24", "via", "192.168.77.2")
    right.route("192.168.77.0/24", "via", "192.168.78.1")
    for gateway, host, n in ((left, client, 1), (right, server, 2)):
        gateway.address(f"10.77.{n}.254/24", "lan0")
        host.address(f"10.77.{n}.10/24", "eth0")
        host.route("default", "via", f"10.77.{n}.254")
    gateways = [
        Culvert(host, site(n, 3 - n, extra).replace("192.168.77.2", "192.168.78.2"), PORTS.format(workers=1))
        for host, n, extra in ((left, 1, "encap = no"), (right, 2, "encap = no"))
    ]
    rounds = (
        ("plain ESP", None, None),
        ("UDP-encapsulated ESP", "encap = no", "encap = yes"),
        # Its ICV covers the identification of the whole packet (RFC 4302 §3.3.3.1.1.1).
        ("AH", "encap = yes", "encap = no"),
    )
    for name, old, new in rounds:
        if old:
            for gateway in gateways:
                text = gateway.config.read_text().replace(old, new)
                if name == "AH":
                    text = text.replace("esp_proposals = aes128gcm16", "ah_proposals = sha256")
                gateway.config.write_text(text)
                gateway.command("reload")
            gateways[0].command("terminate", "--ike", "site")
        client.ping("10.77.1.10", "10.77.2.10", count=1)
        capture, path = lab.capture(right, "wan0", "ip")
        client.ping("10.77.1.10", "10.77.2.10", count=5, size=1350, extra=("-M", "dont"))
        stop(capture)
        seen = attacks.many_fragments(lab, right, path)
        check(seen >= 10, f"{seen} fragments on the wire: nothing was fragmented")
        print(f"    {name} in {seen} fragments arrived")
    for gateway in gateways:
        accounted(gateway)


def between_hosts(local, remote, me, proposals):
    """One of two hosts that protect what they say to each other, in transport mode."""
    return f"""
connections {{
  gw {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = aes128gcm16-prfsha256-x25519
    local {{
      auth = psk
      id = host-{me}
    }}
    remote {{
      auth = psk
      id = host-{3 - me}
    }}
    children {{
      net {{
        mode = transport
        {proposals}
        local_ts = dynamic
        remote_ts = dynamic
        start_action = none
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = a-secret-of-two-hosts
  }}
}}
gateway {{
  legacy = yes
}}
"""


# (proposals, IP protocol on the wire, confidential)
HOST_SUITES = [
    ("esp_proposals = aes128gcm16", 50, True),
    ("esp_proposals = aes256-sha384-esn", 50, True),
    ("esp_proposals = 3des-md5", 50, True),
    ("ah_proposals = sha256", 51, False),
    ("ah_proposals = aes128gmac-esn", 51, False),
]


@test
def transport_mode_and_ah(lab):
    """ESP and AH in transport mode between two hosts, over IPv4 and IPv6; strongSwan's userspace ESP can do neither."""
    left, router, right = routed(lab)
    for near, far in (("192.168.77.1", "192.168.78.2"), ("fd77::1", "fd78::2")):
        # Over IPv6 the first of ESP and the last of AH, for the time.
        for proposals, protocol, confidential in HOST_SUITES if "." in near else (HOST_SUITES[0], HOST_SUITES[-1]):
            there = Culvert(right, between_hosts(far, near, 2, proposals))
            ours = Culvert(left, between_hosts(near, far, 1, proposals))
            ours.initiate()
            names = [f"quick_mode.{kind}_bytes_{way}" for kind in ("transport", "authenticated", "confidential", "tunnel")
                     for way in ("sent", "received")]
            before = ours.rows(*names)
            capture, path = lab.capture(router, "right0", f"host {near} and not udp")
            left.ping(near, far, count=5, size=200)
            size = 5 * (200 + 8 + (40 if ":" in near else 20))
            moved_exactly(ours, names, before, [size] * 4 + [size * confidential] * 2 + [0] * 2, proposals)
            stop(capture)
            seen = sh("tcpdump", "-nr", path, "proto" if "." in near else "ip6 proto", str(protocol)).stdout.splitlines()
            all_seen = sh("tcpdump", "-nr", path, "not arp and not icmp6").stdout.splitlines()
            check(len(seen) == len(all_seen) == 10, f"{proposals}: {len(seen)} of protocol {protocol} among {len(all_seen)}")
            if proposals in (HOST_SUITES[0][0], HOST_SUITES[3][0]):
                tcp, _ = left.iperf(right, near, far, seconds=1)
                print(f"    {near}, {proposals.split()[-1]}: TCP {tcp:.0f} Mbit/s")
            for gateway in (ours, there):
                accounted(gateway)
                gateway.stop()


@test
def transport_mode_behind_a_nat(lab):
    """RFC 7296 §2.23.1 and RFC 3948 §3.1.2: selectors and TCP checksums of a host whose address a NAT changes."""
    left, router, right = routed(lab)
    router.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; };"
               " add rule ip nat post oifname right0 masquerade")
    proposals = "esp_proposals = aes128gcm16"
    there = Culvert(right, between_hosts("192.168.78.2", "%any", 2, proposals))
    ours = Culvert(left, between_hosts("192.168.77.1", "192.168.78.2", 1, proposals))
    ours.initiate()
    capture, path = lab.capture(router, "right0", "udp port 4500")
    left.ping("192.168.77.1", "192.168.78.2", count=5, size=200)
    tcp, _ = left.iperf(right, "192.168.77.1", "192.168.78.2", seconds=1)
    back, _ = left.iperf(right, "192.168.77.1", "192.168.78.2", seconds=1, reverse=True)
    stop(capture)
    seen = len(sh("tcpdump", "-nr", path, "-c", "50").stdout.splitlines())
    check(seen == 50, f"{seen} packets in UDP 4500")
    moved = dict(zip(("transport", "tunnel"), there.rows("quick_mode.transport_bytes_received", "quick_mode.tunnel_bytes_received")))
    check(moved["transport"] > 1_000_000, f"{moved}")
    print(f"    behind a NAT: TCP {tcp:.0f} Mbit/s out, {back:.0f} in")
    for gateway in (ours, there):
        accounted(gateway)


@test
def the_path_takes_less(lab):
    """A router on the path takes 1280 bytes only: its ICMP errors about ESP become ones about the packets inside (RFC 4301 §8.2)."""
    client, left, router, right, server = through_a_router(lab)
    router.run("ip", "link", "set", "right0", "mtu", "1280")
    for extra, overhead in (("encap = no", 20 + 8 + 8 + 2 + 16), ("encap = yes", 20 + 8 + 8 + 8 + 2 + 16)):
        gateways = [
            Culvert(host, site(n, 3 - n, extra).replace("192.168.77.2", "192.168.78.2"), PORTS.format(workers=1))
            for host, n in ((left, 1), (right, 2))
        ]
        client.run("ip", "route", "flush", "cache")
        client.ping("10.77.1.10", "10.77.2.10", count=1)
        # Protected it is longer than 1280, and it must not be fragmented: the router says so, of the ESP packet.
        check(client.ping("10.77.1.10", "10.77.2.10", count=1, size=1300, ok=False, extra=("-M", "do")) == 0, "it is too big")
        said = f"the path takes packets of this length only peer=192.168.78.2 mtu=1280"
        eventually("the gateway hears of it", lambda: said in gateways[0].log.read_text(), seconds=3)
        done = client.run("ping", "-c", 1, "-W", 1, "-M", "do", "-s", 1300, "10.77.2.10", ok=False)
        fits = (1280 - overhead + 2) // 4 * 4 - 2
        check(f"mtu = {fits}" in done.stdout or f"mtu={fits}" in done.stdout + done.stderr, f"{fits}: {done.stdout} {done.stderr}")
        client.ping("10.77.1.10", "10.77.2.10", count=3, size=fits - 28, extra=("-M", "do"))
        tcp, _ = client.iperf(server, "10.77.1.10", "10.77.2.10", seconds=1)
        print(f"    {extra}: inside {fits} bytes fit, TCP {tcp:.0f} Mbit/s")
        said = next(b["values"] for b in gateways[0].stats()["blocks"] if b["name"] == "path_mtu")
        check(said["believed"] == 1 and said["not_ours"] == said["ignored"] == 0, f"ICMP errors: {said}")
        for gateway in gateways:
            accounted(gateway)
            gateway.stop()


@test
def one_length_and_segments_that_fit(lab):
    """`tfc_padding` gives packets one length on the wire, `clamp_mss` tells connections what fits."""
    client, left, router, right, server = through_a_router(lab)
    gateways = []
    for host, n in ((left, 1), (right, 2)):
        children = f"""
      net {{
        local_ts = 10.77.{n}.0/24
        remote_ts = 10.77.{3 - n}.0/24
        esp_proposals = aes128gcm16
        tfc_padding = 1000
        start_action = trap
      }}
"""
        conf = site(n, 3 - n, "encap = no", children=children).replace("192.168.77.2", "192.168.78.2")
        gateways.append(Culvert(host, conf, PORTS.format(workers=1) + "  clamp_mss = yes\n"))
    client.ping("10.77.1.10", "10.77.2.10", count=1)
    capture, path = lab.capture(router, "right0", "ip proto 50")
    for size in (0, 56, 500, 900):
        client.ping("10.77.1.10", "10.77.2.10", count=2, size=size)
    stop(capture)
    lengths = {line.rsplit("length ", 1)[1] for line in sh("tcpdump", "-nr", path).stdout.splitlines()}
    check(len(lengths) == 1, f"lengths on the wire: {lengths}")
    capture, path = lab.capture(server, "eth0", "tcp[13] & 2 != 0")
    client.iperf(server, "10.77.1.10", "10.77.2.10", seconds=1)
    stop(capture)
    fits = (1500 - (20 + 8 + 8 + 2 + 16) + 2) // 4 * 4 - 2 - 40
    syns = sh("tcpdump", "-nr", path).stdout.splitlines()
    incoming = [line for line in syns if "Flags [S]," in line]
    check(incoming and all(f"mss {fits}," in line for line in incoming), f"not {fits}: {syns[:2]}")
    print(f"    every packet {lengths.pop()} bytes of ESP, MSS {fits}")
    for gateway in gateways:
        accounted(gateway)


@test
def nothing_leaves_in_clear(lab):
    """Start, reload, SIGTERM, SIGKILL: a capture on the wire shows not one protected packet."""
    client, left, right, server = lab.chain(queues=1)
    for gateway in (left, right):
        gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    left.route("10.77.2.0/24", "via", "192.168.77.2")
    right.route("10.77.1.0/24", "via", "192.168.77.1")
    client.ping("10.77.1.10", "10.77.2.10")  # in clear, before there is any gateway
    right_gateway = Culvert(right, site(2, 1), PORTS.format(workers=1))
    left_gateway = Culvert(left, site(1, 2), PORTS.format(workers=1), start=False)
    # The rules of the right gateway hold already; the left one's life is what is watched.
    flood = client.start("ping", "-i", "0.01", "-W", "1", "-I", "10.77.1.10", "10.77.2.10", log=lab.dir / "flood")
    # What leaves before the gateway was ever started is nobody's promise.
    left_gateway.start()
    capture, path = lab.capture(right, "wan0", "icmp or (ip proto 4)")
    time.sleep(2)
    left_gateway.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    left_gateway.stop(signal.SIGTERM)
    time.sleep(1)
    left_gateway.start()
    client.ping("10.77.1.10", "10.77.2.10")
    left_gateway.stop(signal.SIGKILL)
    time.sleep(1)
    left.ping("192.168.77.1", "192.168.77.2")  # the interface is usable
    left_gateway.start()
    client.ping("10.77.1.10", "10.77.2.10")
    stop(flood)
    stop(capture)
    shown = sh("tcpdump", "-nr", path, "net", "10.77.0.0/16", ok=False).stdout.strip().splitlines()
    check(not shown, f"{len(shown)} protected packets in clear, first: {shown[:1]}")
    # Orderly ends with cleanup leave the host as it was.
    left_gateway.stop(signal.SIGTERM)
    sh(*left.command(lab.binary, "cleanup"))
    rules = left.run("nft", "list", "ruleset").stdout
    check("culvert" not in rules, "cleanup removes the rules")
    accounted(right_gateway)


@test
def idle_takes_no_cpu(lab):
    client, left, right, server, gateways = four_hosts(lab, workers=1)
    client.ping("10.77.1.10", "10.77.2.10")
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu(process):
        # `ip netns exec` replaces itself by the program, so the pid is the daemon's.
        fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    time.sleep(1)
    before, start = [cpu(g.process) for g in gateways], time.monotonic()
    time.sleep(8)
    elapsed = time.monotonic() - start
    shares = [100 * (cpu(g.process) - b) / elapsed for g, b in zip(gateways, before)]
    print(f"    idle: {', '.join(f'{share:.2f} %' for share in shares)} of a core")
    check(max(shares) < 2, f"idle daemons take {shares} % of a core")


@test
def killed_run_is_taken_down(lab):
    """What a killed run left behind does not stop the next one; a run beside it takes other names."""
    prefix = f"{lab.prefix}k"
    code = f"import lab, time; l = lab.Lab('', {prefix!r}); p = l.host('A').start('sleep', 600); print(l.prefix, p.pid, flush=True); time.sleep(600)"
    lab.processes.append(subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True))
    killed, left = lab.processes[-1].stdout.readline().split()
    beside = Lab("", prefix)
    check(beside.prefix != killed, "two runs at once have one prefix")
    beside.close()
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    check(f"{killed}A" in sh("ip", "netns", "list").stdout.split(), "nothing was left behind")
    after = Lab("", prefix)
    check(after.prefix == killed, f"the prefix {killed} is not free again, but {after.prefix}")
    after.host("A")
    after.close()
    eventually("the end of what was left", lambda: not os.path.exists(f"/proc/{left}/exe"))


# ------------------------------------------------------------------------------------------------------------------


TESTS.update(addresses.TESTS)
TESTS.update(certificates.TESTS)
TESTS.update(icmp_errors.TESTS)
TESTS.update(ikev1.TESTS)
TESTS.update(ikev1_both.TESTS)
TESTS.update(moves.TESTS)
TESTS.update(policies.TESTS)
TESTS.update(ports.TESTS)
TESTS.update(reassembly.TESTS)
TESTS.update(vici.TESTS)
TESTS.update(ikev1_modes.TESTS)
TESTS.update(ikev1_users.TESTS)
TESTS.update(ikev1_nat.TESTS)
TESTS.update(ikev1_peer.TESTS)
TESTS.update(kerberos.tests())


def missing_tools():
    need = ["ip", "pki", "ethtool", "iperf3", "ping", "tcpdump", "nft", "swanctl", "bird"]
    found = [tool for tool in need if not shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))]
    return found + ([] if os.path.exists("/usr/sbin/charon-systemd") else ["charon-systemd"])


def attempt(name, options):
    """Runs one test; returns what went wrong."""
    start = time.monotonic()
    print(f"{name} ...", flush=True)
    lab = Lab(options.binary, options.prefix)
    bad = None
    try:
        TESTS[name](lab)
    except Exception as error:  # noqa: BLE001 - every failure is reported and the next test runs
        bad = error
        if not isinstance(error, Failed):
            traceback.print_exc()
        for log in sorted(lab.dir.glob("*/log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            print(f"    --- {log.parent.name}\n" + "\n".join("    " + line for line in lines))
        for segment in sorted(lab.dir.glob("*/stats")):
            said = sh(lab.binary, "stats", "--file", segment, ok=False).stdout
            print(f"    --- {segment.parent.name}: where packets went\n    " + said[said.find("Packets dropped") :])
    finally:
        lab.close(keep=options.keep and bad is not None)
    print(f"{name} {'FAILED: ' + str(bad) if bad else 'ok'} ({time.monotonic() - start:.1f} s)", flush=True)
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "culvert")
    parser.add_argument("--prefix", default="cvi", help="of the namespaces' names")
    parser.add_argument("--keep", action="store_true", help="leave the files of a failed test")
    parser.add_argument("--retries", type=int, default=0, choices=(0, 1), help="run a failed test once more")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("tests", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TESTS))
        return 0
    # So that what a test made is taken down when the run is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if os.geteuid() != 0:
        print("interop: skipped: network namespaces and AF_XDP need root")
        return 1 if os.environ.get("CI") else 0
    if missing := missing_tools():
        print(f"interop: skipped: not installed: {' '.join(missing)} (tools/interop/setup.sh installs them)")
        return 1 if os.environ.get("CI") else 0
    passed, failed, again = 0, [], []
    for name in options.tests or TESTS:
        bad = attempt(name, options)
        if bad and options.retries:
            # A shared machine takes the processor away at times; what is broken is broken twice.
            again.append(f"{name}: {bad}")
            bad = attempt(name, options)
        if bad:
            failed.append(name)
        else:
            passed += 1
    for first in again:
        print(f"second try: {first}")
    if failed:
        print(f"failed: {' '.join(failed)}")
    print(f"interop: {passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
