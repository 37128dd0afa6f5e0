"""Ports whose devices change, and the frames on them: carrier, MTU, address, queues, deletion and return."""

import json
import os
import re
import struct
import sys
import time

import attacks
import frames
from lab import HERE, Culvert, check, eventually, sh, stop
from sites import PORTS, four_hosts, routed, site, through_a_router
from traffic import accounted, moved_exactly, numbered_traffic, outcome

TESTS = {}

NEAR, FAR = "10.77.1.10", "10.77.2.10"


def test(function):
    TESTS[function.__name__] = function
    return function


def link(gateway, device, name):
    """A figure of a port's life."""
    blocks = gateway.stats()["blocks"]
    return next(b for b in blocks if b["name"] == "link" and b["instance"] == device)["values"][name]


def places(gateway):
    """Frames of each worker: lent for packets to come (what comes in less than a batch is not lent anew), sending, missing."""
    return [(round(w["frames_receiving"] / 256), w["frames_sending"], w["frames_out"]) for w in gateway.workers()]


def resumes(client, near=NEAR, far=FAR, seconds=8):
    """Pings until there is an answer again; then all of five."""
    eventually("traffic to resume", lambda: client.ping(near, far, count=1, ok=False, extra=("-w", 1)) == 1, seconds)
    client.ping(near, far, count=5, interval=0.05)


def comes_up(client, *pairs):
    """The tunnels of these addresses. The first second of a link is IPv6's search for duplicates of its own address."""
    for near, far in pairs:
        eventually(f"{near} > {far}", lambda: client.ping(near, far, count=1, ok=False, extra=("-w", 2)) == 1, 10)


NEAR6, FAR6 = "fd77:1::10", "fd77:2::10"


class Watch:
    """Nothing in clear on the wire between the gateways, no frame lost and nobody dead at the end."""

    def __init__(self, lab, gateways, wire):
        self.lab, self.gateways, self.wire = lab, gateways, wire
        self.capture()
        self.before = [places(gateway) for gateway in gateways]

    def capture(self):
        self.tcpdump, self.path = self.lab.capture(self.wire, "wan0", "net 10.77.0.0/16")

    def nothing_in_clear(self):
        stop(self.tcpdump)
        shown = sh("tcpdump", "-nr", self.path, ok=False).stdout.strip().splitlines()
        check(not shown, f"{len(shown)} protected packets in clear, first: {shown[:1]}")

    def end(self, rested=False):
        self.nothing_in_clear()
        for gateway, before in zip(self.gateways, self.before):
            check(gateway.process.poll() is None, f"culvert ended: {gateway.tail()}")
            check("panicked" not in gateway.log.read_text(), f"a thread panicked: {gateway.tail()}")
            accounted(gateway)
            # A port's capture does not show what its gateway takes: that one says whether it came in clear.
            check("clear_not_protected" not in gateway.drops(), f"in clear: {gateway.drops()}")
            # Chunks of a closed socket come back after two seconds.
            eventually("all frames in their places", lambda: places(gateway) == before, 5 if rested else 3)


def flood(lab, client, near=NEAR, far=FAR):
    return client.start("ping", "-i", "0.01", "-W", "1", "-I", near, far, log=lab.dir / "flood")


@test
def port_carrier(lab):
    """Carrier loss and return at the LAN and at the WAN, under traffic."""
    client, left, right, server, gateways = four_hosts(lab, workers=1)
    client.ping(NEAR, FAR, count=2)
    watch = Watch(lab, gateways, right)
    flooding = flood(lab, client)
    # The server loses its carrier: the right gateway cannot send there.
    server.run("ip", "link", "set", "eth0", "down")
    eventually("the loss at the LAN", lambda: link(gateways[1], "lan0", "carrier") == 0, 3)
    eventually("packets for it", lambda: gateways[1].drops().get("port_down", 0) > 10, 3)
    server.run("ip", "link", "set", "eth0", "up")
    server.route("default", "via", "10.77.2.254")
    resumes(client)
    # The wire between the gateways: one end goes down, the other loses its carrier.
    right.run("ip", "link", "set", "wan0", "down")
    for gateway in gateways:
        eventually("the loss at the WAN", lambda: link(gateway, "wan0", "carrier") == 0, 3)
    time.sleep(0.5)
    stop(watch.tcpdump)
    watch.nothing_in_clear()
    right.run("ip", "link", "set", "wan0", "up")
    watch.capture()
    resumes(client)
    stop(flooding)
    check([link(g, "wan0", "carrier_losses") for g in gateways] == [1, 1], "one loss of each WAN")
    check([link(g, "lan0", "carrier_losses") for g in gateways] == [0, 1], "one loss of the right LAN")
    check("the carrier changed" in gateways[1].log.read_text(), "it is logged")
    watch.end()


@test
def port_mtu_and_address(lab):
    """MTU and MAC address of both ports of a gateway change under traffic."""
    client, left, right, server, gateways = four_hosts(lab, workers=1)
    client.ping(NEAR, FAR, count=2)
    watch = Watch(lab, gateways, right)
    flooding = flood(lab, client)
    for end in (left, right):
        end.run("ip", "link", "set", "wan0", "mtu", "1400")
    eventually("the new MTU", lambda: link(gateways[0], "wan0", "mtu") == 1400, 3)
    done = client.run("ping", "-c", 1, "-W", 1, "-M", "do", "-s", 1340, FAR, ok=False)
    fits = (1400 - (20 + 8 + 8 + 2 + 16) + 2) // 4 * 4 - 2
    check(f"mtu = {fits}" in done.stdout or f"mtu={fits}" in done.stdout + done.stderr, f"{fits}: {done.stdout} {done.stderr}")
    client.ping(NEAR, FAR, size=fits - 28, extra=("-M", "do"))
    for end in (left, right):
        end.run("ip", "link", "set", "wan0", "mtu", "1500")
    eventually("the old MTU", lambda: link(gateways[0], "wan0", "mtu") == 1500, 3)
    client.run("ip", "route", "flush", "cache")
    client.ping(NEAR, FAR, size=1400, extra=("-M", "do"))
    for device in ("lan0", "wan0"):
        # The host announces its new address, as after a bond's failover.
        left.run("sysctl", "-qw", f"net.ipv4.conf.{device}.arp_notify=1")
        left.run("ip", "link", "set", device, "address", "02:00:00:00:77:01")
        eventually("the new address", lambda: link(gateways[0], device, "address_changes") == 1, 3)
        resumes(client)
    stop(flooding)
    check(link(gateways[0], "wan0", "mtu_changes") == 2, "two changes of the MTU")
    watch.end()


@test
def port_gone_and_back(lab):
    """Each device of a gateway is deleted and comes back: the SAs stay, the traffic resumes by itself."""
    client, left, right, server, gateways = four_hosts(lab, workers=1)
    client.ping(NEAR, FAR, count=2)
    watch = Watch(lab, gateways, right)
    flooding = flood(lab, client)
    left.run("ip", "link", "del", "lan0")
    eventually("the device is missed", lambda: link(gateways[0], "lan0", "detached") == 1, 3)
    stop(flooding)
    server.ping(FAR, NEAR, count=2, interval=0.1, ok=False, extra=("-W", "1"))
    lab.wire(client, "eth0", left, "lan0")
    left.address("10.77.1.254/24", "lan0")
    client.address("10.77.1.10/24", "eth0")
    client.route("default", "via", "10.77.1.254")
    eventually("the device is back", lambda: link(gateways[0], "lan0", "attached") == 1, 5)
    resumes(client)
    flooding = flood(lab, client)
    right.run("ip", "link", "del", "wan0")
    for gateway in gateways:
        eventually("the device is missed", lambda: link(gateway, "wan0", "detached") == 1, 3)
    watch.nothing_in_clear()
    # The device returns before its address does, and the one at the other end later still.
    lab.wire(left, "wan0", right, "wan0")
    watch.capture()
    for gateway, n in ((left, 1), (right, 2)):
        time.sleep(0.3)
        gateway.address(f"192.168.77.{n}/24", "wan0")
    for gateway in gateways:
        eventually("the device is back", lambda: link(gateway, "wan0", "attached") == 1, 5)
    resumes(client)
    stop(flooding)
    check([g.rows("main_mode.ike_main_mode", "quick_mode.active_sas") for g in gateways] == [[1, 1]] * 2, "the SAs stayed")
    watch.end(rested=True)


@test
def port_queues(lab):
    """A queue comes up while running: the worker that there is receives from it."""
    client, left, right, server = lab.chain(queues=2)
    for host, device in ((client, "eth0"), (server, "eth0"), (left, "wan0"), (right, "wan0"), (left, "lan0"), (right, "lan0")):
        host.run("ethtool", "-L", device, "rx", "1", "tx", "1")
    gateways = [
        Culvert(host, site(n, 3 - n), PORTS.format(workers=1)) for host, n in ((left, 1), (right, 2))
    ]
    client.ping(NEAR, FAR, count=2)
    watch = Watch(lab, gateways, right)
    for host, device in ((left, "lan0"), (right, "lan0")):
        host.run("ethtool", "-L", device, "rx", "2")
    for gateway in gateways:
        eventually("the queue is seen", lambda: link(gateway, "lan0", "queue_changes") == 1, 5)
        check("the number of queues changed" in gateway.log.read_text(), "it is logged")
    for host in (client, server):
        host.run("ethtool", "-L", "eth0", "tx", "2")
    # The client spreads its flows over both.
    before = gateways[0].rows_of_port("lan0/0", "rx_packets")
    for n in range(20, 30):
        client.address(f"10.77.1.{n}/24", "eth0")
    for n in range(20, 30):
        client.ping(f"10.77.1.{n}", FAR, count=3, interval=0.02)
    seen = left.run("ethtool", "-S", "lan0").stdout
    print("    " + " ".join(line.strip() for line in seen.splitlines() if "xdp_packets" in line))
    refused = left.run("ethtool", "-L", "lan0", "rx", "1", ok=False)
    check(refused.returncode != 0, "the kernel takes no queue away that has a socket")
    check(gateways[0].rows_of_port("lan0/0", "rx_packets") >= before, "counters do not go back")
    for device in ("lan0",):
        stats = [line for line in seen.splitlines() if "rx_queue_1_xdp_packets" in line]
        check(stats and int(stats[0].split(":")[1]) > 0, f"nothing came by the new queue: {stats}")
    watch.nothing_in_clear()
    for gateway in gateways:
        accounted(gateway)


@test
def port_queues_at_return(lab):
    """A device comes back with fewer queues in use, with more, with too few for the workers, and at last with as many as before."""
    client, left, right, server = lab.chain(queues=2)
    gateways = [
        Culvert(host, site(n, 3 - n), PORTS.format(workers=2)) for host, n in ((left, 1), (right, 2))
    ]
    comes_up(client, (NEAR, FAR))
    watch = Watch(lab, gateways, right)
    ours = gateways[0]

    def back(queues, used=None):
        detached, here = link(ours, "lan0", "detached"), link(ours, "lan0", "mtu") != 0
        left.run("ip", "link", "del", "lan0")
        eventually("the device is missed", lambda: link(ours, "lan0", "detached") == detached + here, 3)
        lab.wire(client, "eth9", left, "away", queues)
        for host, device in ((client, "eth9"), (left, "away")):
            host.run("ip", "link", "set", device, "down")
            if used:
                host.run("ethtool", "-L", device, "rx", used, "tx", used)
        for host, device, name in ((client, "eth9", "eth0"), (left, "away", "lan0")):
            host.run("ip", "link", "set", device, "name", name, "up")
        left.address("10.77.1.254/24", "lan0")
        client.address("10.77.1.10/24", "eth0")
        client.route("default", "via", "10.77.1.254")

    def queues():
        said = left.run("ethtool", "-l", "lan0").stdout.split("Current hardware settings:")[1]
        return int(said.split("RX:")[1].split()[0])

    attached = lambda: link(ours, "lan0", "attached")
    back(2, used=1)
    eventually("the device is back", lambda: attached() == 1, 5)
    check(queues() == 2 and "queues for all workers" in ours.log.read_text(), f"{queues()} queues are in use")
    resumes(client)
    back(3)
    eventually("the device is back", lambda: attached() == 2, 5)
    check(queues() == 3, "more than before are left as they are")
    resumes(client)
    # From another address for each flow, so that all queues are met: no worker lacks its own.
    for n in range(20, 28):
        client.address(f"10.77.1.{n}/24", "eth0")
        client.ping(f"10.77.1.{n}", FAR, count=2, interval=0.02)
    back(1)
    eventually("it to be said", lambda: "each of the 2 workers needs one" in ours.log.read_text(), 5)
    check("it has room for 1 at most" in ours.log.read_text(), "why it gets no more")
    time.sleep(1.2)
    check(attached() == 2, "attached with a queue too few")
    check(client.ping(NEAR, FAR, count=1, ok=False, extra=("-w", 1)) == 0, "answered all the same")
    back(2)
    eventually("the device is back", lambda: attached() == 3, 5)
    resumes(client)
    watch.end(rested=True)


def send_frames(host, device, made, count=None, seconds=3.0):
    """Sends frames and returns the echo replies that come to them."""
    asked = {"frames": [frame.hex() for frame in made], "count": len(made) if count is None else count, "seconds": seconds}
    done = host.run(sys.executable, HERE / "frames.py", device, input=json.dumps(asked))
    return json.loads(done.stdout)


def address_of(host, device):
    return host.run("cat", f"/sys/class/net/{device}/address").stdout.strip()


@test
def port_vlan(lab):
    """A port that is a VLAN: its tag is taken off and put on; other VLANs, service tags and QinQ are the kernel's."""
    client, left, right, server = lab.chain()
    # This kernel may have no VLAN devices: another device has the addresses, and the neighbour is told.
    left.run("ip", "addr", "flush", "dev", "lan0")
    left.run("ip", "link", "add", "lan10", "type", "veth", "peer", "name", "stub10")
    ours, theirs = address_of(left, "lan0"), address_of(client, "eth0")
    left.run("ip", "link", "set", "lan10", "address", ours)
    for device in ("lan10", "stub10"):
        left.run("ip", "link", "set", device, "up")
    left.address("10.77.1.254/24", "lan10")
    left.address("fd77:1::fe/64", "lan10")
    for address in ("10.77.1.10", "fd77:1::10"):
        left.run("ip", "neigh", "replace", address, "lladdr", theirs, "dev", "lan10", "nud", "permanent")
    ports = PORTS.format(workers=1).replace("interface = lan0", "interface = lan10\n      device = lan0\n      vlan = 10")
    gateways = [Culvert(left, site(1, 2), ports), Culvert(right, site(2, 1), PORTS.format(workers=1))]
    watch = Watch(lab, gateways, right)
    c_tag, s_tag = 0x8100, 0x88A8

    def request(tags, sequence):
        packet = frames.ipv4(NEAR, FAR, frames.echo(7, sequence, 56))
        return frames.ethernet(theirs, ours, tags, 0x0800, packet)

    seen = send_frames(client, "eth0", [request([(c_tag, 10)], n) for n in range(5)])
    check([(r["tags"], r["sequence"]) for r in seen] == [([10], n) for n in range(5)], f"VLAN 10: {seen}")
    # The priority bits are nobody's business.
    seen = send_frames(client, "eth0", [request([(c_tag, 0xE00A)], 9)])
    check([r["tags"] for r in seen] == [[10]], f"with a priority: {seen}")
    def redirected():
        return [line.split(":")[1] for line in left.run("ethtool", "-S", "lan0").stdout.splitlines() if "xdp_redirect" in line]

    before = redirected()
    others = [[], [(c_tag, 0)], [(c_tag, 11)], [(s_tag, 10)], [(s_tag, 10), (c_tag, 10)], [(c_tag, 10), (c_tag, 10)],
              [(c_tag, 10), (s_tag, 10)]]
    seen = send_frames(client, "eth0", [request(tags, n) for n, tags in enumerate(others)], count=1, seconds=1)
    check(not seen, f"what has another tag was answered: {seen}")
    check(redirected() == before, "what has another tag came to the worker")
    comes_up_six = frames.ethernet(theirs, ours, [(c_tag, 10)], 0x86DD, frames.ipv6(NEAR6, FAR6, 7, 0, 56))
    eventually("IPv6", lambda: send_frames(client, "eth0", [comes_up_six], seconds=1), 8)
    six = frames.ipv6(NEAR6, FAR6, 7, 1, 56)
    seen = send_frames(client, "eth0", [frames.ethernet(theirs, ours, [(c_tag, 10)], 0x86DD, six)])
    check([r["tags"] for r in seen] == [[10]], f"IPv6: {seen}")
    # A packet of the full MTU has its tag beside it.
    full = frames.ipv4(NEAR, FAR, long_echo(7, 3, 1400))
    seen = send_frames(client, "eth0", [frames.ethernet(theirs, ours, [(c_tag, 10)], 0x0800, full)])
    check([(r["tags"], r["length"]) for r in seen] == [([10], 1428)], f"a long one: {seen}")
    check("wrong_vlan" not in gateways[0].drops(), f"{gateways[0].drops()}")
    watch.end()


@test
def short_frames_options_and_extension_headers(lab):
    """What Ethernet pads is not carried; IP options and extension headers of packets inside are; fragments of the LAN, too."""
    client, left, right, server, gateways = four_hosts(lab, workers=1)
    comes_up(client, (NEAR, FAR), (NEAR6, FAR6))
    watch = Watch(lab, gateways, right)
    ours, theirs = address_of(left, "lan0"), address_of(client, "eth0")
    names = ("quick_mode.tunnel_bytes_sent", "quick_mode.tunnel_bytes_received")
    before = gateways[0].rows(*names)
    sizes = range(0, 20)
    seen = send_frames(client, "eth0", [
        frames.ethernet(theirs, ours, [], 0x0800, frames.ipv4(NEAR, FAR, frames.echo(8, n, n))) for n in sizes
    ])
    check([r["length"] for r in seen] == [28 + n for n in sizes], f"short packets: {seen}")
    moved_exactly(gateways[0], names, before, [sum(28 + n for n in sizes)] * 2, "padding is not carried")
    # What leaves is as long as Ethernet asks, with nothing of other packets behind it.
    check([r["padding"] for r in seen] == ["00" * max(0, 46 - 28 - n) for n in sizes], f"padding: {seen}")
    # Router alert, and a record route with room for nobody, which a gateway leaves alone.
    for options in (b"\x94\x04\0\0", b"\x07\x07\x08\x01\x02\x03\x04\0", b"\x01" * 40):
        seen = send_frames(client, "eth0", [
            frames.ethernet(theirs, ours, [], 0x0800, frames.ipv4(NEAR, FAR, frames.echo(9, 1, 32), options))
        ])
        check(len(seen) == 1, f"options {options.hex()}: {seen}")
    pad = bytes([0, 1, 4, 0, 0, 0, 0])
    for headers in ([(0, pad)], [(60, pad)], [(0, pad), (60, pad)]):
        packet = frames.ipv6(NEAR6, FAR6, 10, 1, 32, headers)
        seen = send_frames(client, "eth0", [frames.ethernet(theirs, ours, [], 0x86DD, packet)])
        check(len(seen) == 1, f"extension headers {[n for n, _ in headers]}: {seen}")
    # Fragments of the LAN go in one by one (RFC 4301 §7: the child has no port selectors).
    client.ping(NEAR, FAR, count=2, size=4000)
    # The first answers are that the tunnel takes less, to either end.
    client.ping(NEAR6, FAR6, count=4, size=4000, ok=False)
    client.ping(NEAR6, FAR6, count=2, size=4000)
    watch.end()


ANSWER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.2.10", 53))
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(b"%d" % len(data), peer)
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.sendto(bytes(int(sys.argv[1])), ("10.77.2.10", 53))
print(s.recv(100).decode())
"""


def asked(client, size):
    """Whether a DNS server behind the other gateway got this many bytes whole."""
    return client.run(sys.executable, "-c", ASK, size, ok=False).stdout.strip() == str(size)


def child_with_ports(n, name, ports):
    """One end of a child for these ports of the server's."""
    near, far = ("", f"/{ports}") if n == 1 else (f"/{ports}", "")
    return f"""
      {name} {{
        local_ts = 10.77.{n}.0/24[udp{near}]
        remote_ts = 10.77.{3 - n}.0/24[udp{far}]
        esp_proposals = aes128gcm16
        start_action = trap
      }}
"""


def packets_of(gateway, child):
    """What a child's inbound SAs have carried."""
    said = sh("swanctl", "--list-sas", "--uri", f"unix://{gateway.socket}").stdout
    return sum(int(n) for n in re.findall(rf"{child}: #(?:(?!: #).)*?in +\S+, +\d+ bytes, +(\d+) packets", said, re.DOTALL))


def more_drops(gateway, before):
    after = gateway.drops()
    return {cause: after[cause] - before.get(cause, 0) for cause in after if after[cause] != before.get(cause, 0)}


@test
def lan_fragments_against_ports(lab):
    """RFC 4301 §7: later fragments take the SA of the first where both ends agree, or one of their own; else they go nowhere."""
    client, left, right, server = lab.chain()
    # In clear there would be a way.
    left.route("10.77.2.0/24", "via", "192.168.77.2")
    answer = server.start(sys.executable, "-c", ANSWER)

    def gateways(children, version=2):
        made = []
        for host, n in ((left, 1), (right, 2)):
            conf = site(n, 3 - n, children="".join(child_with_ports(n, *child) for child in children))
            if version == 1:
                conf = conf.replace("version = 2", "version = 1").replace("aes128gcm16-prfsha256-x25519", "aes128-sha256-modp2048")
            made.append(Culvert(host, conf, PORTS.format(workers=1)))
        watch = Watch(lab, made, right)
        eventually("an answer", lambda: asked(client, 100), 6)
        return *made, watch

    # §7.3: agreed on (NON_FIRST_FRAGMENTS_ALSO).
    near, far, watch = gateways([("dns", "53")])
    check(asked(client, 4000) and asked(client, 9000), f"fragments after their first: {near.drops()} {far.drops()}")
    lonely = frames.ethernet(address_of(client, "eth0"), address_of(left, "lan0"), [], 0x0800,
                             frames.ipv4(NEAR, FAR, bytes(800), protocol=17, identification=99, flags=185))
    before, there = near.drops(), far.drops()
    send_frames(client, "eth0", [lonely], count=1, seconds=0.5)
    check(more_drops(near, before).get("policy_discard") == 1, f"one without a first: {more_drops(near, before)}")
    check(not more_drops(far, there), f"it came to the other gateway: {more_drops(far, there)}")
    watch.end()
    for gateway in (near, far):
        gateway.stop()

    # §7.2: in an SA of their own.
    near, far, watch = gateways([("dns", "53"), ("rest", "opaque")])
    eventually("the child for later fragments", lambda: asked(client, 4000), 6)
    check(asked(client, 4000), "fragments in an SA of their own")
    carried = {child: packets_of(far, child) for child in ("dns", "rest")}
    check(carried["rest"] >= 4, f"{carried}")
    send_frames(client, "eth0", [lonely], count=1, seconds=0.5)
    check(packets_of(far, "rest") == carried["rest"] + 1, "one without a first goes there as well")
    early = frames.ethernet(address_of(client, "eth0"), address_of(left, "lan0"), [], 0x0800,
                            frames.ipv4(NEAR, FAR, bytes(800), protocol=17, identification=99, flags=1))
    there = far.drops()
    send_frames(client, "eth0", [early], count=1, seconds=0.5)
    check(more_drops(far, there).get("fragment_overlap") == 1, f"over the ports: {more_drops(far, there)}")
    watch.end()
    for gateway in (near, far):
        gateway.stop()

    # IKEv1 has no word for either.
    near, far, watch = gateways([("dns", "53")], version=1)
    before = near.drops()
    check(not asked(client, 4000), "4000 bytes got an answer")
    check(more_drops(near, before).get("policy_discard") == 2, f"the two later fragments: {more_drops(near, before)}")
    check("policy_discard" not in far.drops(), f"they came to the other gateway: {far.drops()}")
    # The first one, with what protects it longer than the link, is not cut before it is sealed: its rest would show no ports.
    check("selector_mismatch" not in far.drops(), f"cut before it was sealed: {far.drops()}")
    stop(answer)
    watch.end()


@test
def tunnels_over_small_links(lab):
    """An IPv6 packet of 1280 bytes fits no tunnel over 1280: the protected packet is fragmented, and the peer reassembles."""
    client, left, right, server = lab.chain()
    for end in (left, right):
        end.run("ip", "link", "set", "wan0", "mtu", "1280")
    for outer in ("192.168.77.", "fd77::"):
        gateways = []
        for host, n in ((left, 1), (right, 2)):
            conf = site(n, 3 - n, "encap = no").replace("192.168.77.", outer)
            gateways.append(Culvert(host, conf, PORTS.format(workers=1)))
        comes_up(client, (NEAR, FAR), (NEAR6, FAR6))
        watch = Watch(lab, gateways, right)
        capture, path = lab.capture(left, "wan0", "ip or ip6")
        client.ping(NEAR6, FAR6, count=4, size=1280 - 48)
        stop(capture)
        # tcpdump on a port sees what comes: the answers.
        fragments = attacks.many_fragments(lab, left, path) if "." in outer else len(
            sh("tcpdump", "-nr", path, "ip6[6] = 44").stdout.splitlines())
        # More than that the sender is told of, and IPv4 is fragmented inside where it may be.
        # Either end is told once.
        client.ping(NEAR6, FAR6, count=4, size=1400, ok=False)
        client.ping(NEAR6, FAR6, count=2, size=1400)
        client.ping(NEAR, FAR, count=2, size=1400, extra=("-M", "dont"))
        # With options, which the fragments take along as they say (RFC 791 §3.1).
        ours, theirs = address_of(left, "lan0"), address_of(client, "eth0")
        packet = frames.ipv4(NEAR, FAR, long_echo(11, 1, 1300), b"\x94\x04\0\0", identification=77)
        seen = send_frames(client, "eth0", [frames.ethernet(theirs, ours, [], 0x0800, packet)])
        check(len(seen) == 1, f"with options: {seen}; {gateways[0].drops()}")
        mtus = [line.split("=")[1].split()[0] for line in listed(gateways[0]).split() if line.startswith("mtu=")]
        check(mtus and all(m == mtus[0] for m in mtus) and int(mtus[0]) < 1280, f"the views say: {mtus}")
        print(f"    over {outer}: {mtus[0]} bytes fit inside, {fragments} fragments seen")
        check("link_too_small" not in gateways[0].drops(), f"{gateways[0].drops()}")
        watch.end()
        for gateway in gateways:
            gateway.stop()


@test
def port_vlans(lab):
    """Three ports on one device: two VLANs and what has no tag. Each has its own addresses and its own neighbours."""
    client, left, right, server = lab.chain(queues=2)
    ours, theirs = address_of(left, "lan0"), address_of(client, "eth0")
    left.run("ip", "-4", "addr", "flush", "dev", "lan0")
    # This kernel may have no VLAN devices: others have the addresses, and the neighbours are told.
    near = {10: "10.77.1.10", 20: "10.77.1.130"}
    for vlan, gateway in ((10, "10.77.1.1/25"), (20, "10.77.1.254/25")):
        left.run("ip", "link", "add", f"lan{vlan}", "type", "veth", "peer", "name", f"stub{vlan}")
        left.run("ip", "link", "set", f"lan{vlan}", "address", ours)
        for device in (f"lan{vlan}", f"stub{vlan}"):
            left.run("ip", "link", "set", device, "up")
        left.address(gateway, f"lan{vlan}")
        left.run("ip", "neigh", "replace", near[vlan], "lladdr", theirs, "dev", f"lan{vlan}", "nud", "permanent")
    ports = PORTS.format(workers=2)
    at = ports.index("lan {")
    section = "".join(f"vlan{n} {{\n      interface = lan{n}\n      device = lan0\n      vlan = {n}\n      mode = copy\n    }}\n    " for n in (10, 20))
    # The port without a tag comes last in one run: which of them is the trunk is nobody's business.
    gateways = [Culvert(left, site(1, 2), ports[:at] + section + ports[at:]), Culvert(right, site(2, 1), PORTS.format(workers=2))]
    comes_up(client, (NEAR6, FAR6))
    watch = Watch(lab, gateways, right)
    c_tag = 0x8100

    def request(tag, source, sequence, size=56):
        packet = frames.ipv4(source, FAR, long_echo(7, sequence, size))
        return frames.ethernet(theirs, ours, tag and [(c_tag, tag)] or [], 0x0800, packet)

    eventually("the tunnel", lambda: send_frames(client, "eth0", [request(10, near[10], 0)], seconds=1), 8)
    mixed = [(10, 1), (20, 2), (20, 3), (10, 4), (10, 5), (20, 6)]
    seen = send_frames(client, "eth0", [request(vlan, near[vlan], n) for vlan, n in mixed])
    check(sorted((r["sequence"], r["tags"]) for r in seen) == [(n, [vlan]) for vlan, n in mixed], f"mixed: {seen}")
    seen = send_frames(client, "eth0", [request(vlan, near[vlan], 9, 1400) for vlan in (10, 20)])
    check(sorted((r["tags"], r["length"]) for r in seen) == [([10], 1428), ([20], 1428)], f"long ones: {seen}")
    # Without a tag, by the straight way, beside the others.
    client.ping(NEAR6, FAR6, count=5, interval=0.02)
    # A VLAN that is no port's, and two tags, stay with the kernel.
    before = sum(g["received"] for g in gateways[0].workers())
    strangers = [frames.ethernet(theirs, ours, tags, 0x0800, frames.ipv4(NEAR, FAR, frames.echo(7, 1, 56)))
                 for tags in ([(c_tag, 30)], [(c_tag, 10), (c_tag, 20)])]
    check(not send_frames(client, "eth0", strangers, count=1, seconds=1), "what has another tag was answered")
    check(sum(g["received"] for g in gateways[0].workers()) == before, "what has another tag came to a worker")
    # One of them goes, and the others stay.
    left.run("ip", "link", "set", "lan20", "down")
    eventually("the loss", lambda: link(gateways[0], "lan20", "carrier") == 0, 3)
    seen = send_frames(client, "eth0", [request(10, near[10], 11)])
    check([r["tags"] for r in seen] == [[10]], f"after the other's loss: {seen}")
    check(link(gateways[0], "lan0", "carrier") == 1, "the device has its carrier")
    watch.nothing_in_clear()
    for gateway in gateways:
        accounted(gateway)
        check(all(w["frames_out"] == 0 for w in gateway.workers()), "frames are missing")


def long_echo(identifier, sequence, size):
    text = struct.pack("!BBHHH", 8, 0, 0, identifier, sequence) + bytes(size)
    return text[:2] + struct.pack("!H", frames.checksum(text)) + text[4:]


def listed(gateway):
    return sh("swanctl", "--list-sas", "--raw", "--uri", f"unix://{gateway.socket}").stdout


@test
def jumbo_frames(lab):
    """An MTU of 9000 from end to end: packets of one to three buffers through ESP, whole, in fragments and as TCP."""
    client, left, right, server = lab.chain(queues=2)
    for host, device in ((client, "eth0"), (left, "lan0"), (left, "wan0"), (right, "wan0"), (right, "lan0"), (server, "eth0")):
        host.run("ip", "link", "set", device, "mtu", "9000")
    gateways = [Culvert(host, site(n, 3 - n, "encap = no"), PORTS.format(workers=2)) for host, n in ((left, 1), (right, 2))]
    comes_up(client, (NEAR, FAR), (NEAR6, FAR6))
    watch = Watch(lab, gateways, right)
    fits = (9000 - (20 + 8 + 8 + 2 + 16) + 2) // 4 * 4 - 2
    for size in (56, 1400, 3700, 3760, 3812, 4000, 5000, 7700, 8000, fits - 28):
        client.ping(NEAR, FAR, size=size, interval=0.02, extra=("-M", "do", "-p", "5a17c3"))
    client.ping(NEAR6, FAR6, size=fits - 48, interval=0.02, extra=("-M", "do", "-p", "5a17c3"))
    done = client.run("ping", "-c", 1, "-W", 1, "-M", "do", "-s", 8960, FAR, ok=False)
    check(f"mtu = {fits}" in done.stdout or f"mtu={fits}" in done.stdout + done.stderr, f"{fits}: {done.stdout} {done.stderr}")
    client.ping(NEAR, FAR, size=8960, extra=("-M", "dont"))
    for near, far in ((NEAR, FAR), (NEAR6, FAR6)):
        tcp, _ = client.iperf(server, near, far, seconds=1)
        back, _ = client.iperf(server, near, far, seconds=1, reverse=True)
        print(f"    {near} > {far}: TCP {tcp:.0f} and {back:.0f} Mbit/s at an MTU of 9000")
    dropped = [{c: n for c, n in g.drops().items() if c not in ("packet_too_big", "transmit_full", "no_route", "no_policy")} for g in gateways]
    check(not any(dropped), f"{dropped}")
    watch.end()


@test
def two_workers_four_queues(lab):
    """A soak: two workers with two queues of two ports each, flows on both, rekeys of one child and the churn of another, and at least
    half of all packets at the worker that does not have their SA. For longer: SOAK_SECONDS=300."""
    children = {
        n: "".join(
            f"""
      {name} {{
        local_ts = {local}
        remote_ts = {remote}
        esp_proposals = aes128gcm16-x25519
        replay_window = 1024
        start_action = trap
      }}
"""
            for name, local, remote in (
                ("net4", f"10.77.{n}.0/24", f"10.77.{3 - n}.0/24"),
                ("net6", f"fd77:{n}::/64", f"fd77:{3 - n}::/64"),
                ("churn", f"10.78.{n}.0/24", f"10.78.{3 - n}.0/24"),
            )
        )
        for n in (1, 2)
    }
    client, left, router, right, server = through_a_router(lab, queues=2)
    gateways = [
        Culvert(host, site(n, 3 - n, children=children[n]).replace("192.168.77.2", "192.168.78.2"), PORTS.format(workers=2))
        for host, n in ((left, 1), (right, 2))
    ]
    # A worker sends by its own queue, and the router forwards on the core that it was sent from (the daemon's workers are pinned to
    # the second core, the third …, the first). What worker 0 of the one gateway sends comes to worker 1 of the other, and the reverse;
    # SAs are made where the packets of the one before came, so they go to and fro between the workers.
    cores = sorted(os.sched_getaffinity(0))
    cores = cores[1:] + cores[:1]
    for device in ("left0", "right0"):
        for worker in (0, 1):
            path = f"/sys/class/net/{device}/queues/tx-{1 - worker}/xps_cpus"
            router.run("sh", "-c", f"echo {1 << cores[worker % len(cores)]:x} > {path}")
    comes_up(client, (NEAR, FAR))
    watch = Watch(lab, gateways, right)
    seconds, rate = int(os.environ.get("SOAK_SECONDS", 6)), 3000
    running = numbered_traffic(client, server, (NEAR, FAR), rate, seconds, flows=64)
    time.sleep(0.5)
    begin, rekeys, churns, unbalanced, least = time.monotonic(), 0, 0, 0, None
    while time.monotonic() < begin + seconds - 1.5:
        gateways[rekeys % 2].command("rekey", "--child", "net4")
        rekeys += 1
        gateways[0].command("initiate", "--child", "churn")
        gateways[churns % 2].command("terminate", "--child", "churn")
        churns += 1
        for gateway in gateways:
            # A block is published whole, so the identity holds at every moment that one can be read.
            workers = gateway.workers()
            unbalanced += sum(not w["accounting"]["balanced"] for w in workers)
            free = min(w["frames_free"] for w in workers)
            least = free if least is None else min(least, free)
        time.sleep(0.2)
    sent, got = outcome(*running, seconds)
    # The host's own multicast on the TUN has no policy and no route.
    dropped = [{c: n for c, n in g.drops().items() if c not in ("no_route", "no_policy")} for g in gateways]
    for one, other in zip(sent, got):
        check(one["refused"] == 0 and other["lost"] == 0 and other["duplicates"] == 0, f"{other}; dropped {dropped}")
    check(unbalanced == 0, f"{unbalanced} blocks out of balance")
    check(not any(dropped), f"{dropped}")
    check(least > 1024, f"only {least} frames were free at a moment")
    for gateway in gateways:
        eventually("every worker to have worked", lambda: all(w["received"] > 1000 for w in gateway.workers()), 3)
        check(all(w["opened_packets"] > 100 and w["sealed_packets"] > 100 for w in gateway.workers()), "each worker had SAs")
        out, back = (sum(w[row] for w in gateway.workers()) for row in ("handed_out", "handed_in"))
        check(out == back, f"handed out {out}, in {back}")
    handed = [sum(w["handed_out"] for w in g.workers()) / sum(w["received"] for w in g.workers()) for g in gateways]
    # Half of the plain ones, as their flows fall, and the protected ones.
    check(min(handed) >= 0.5, f"handed over: {handed}")
    print(f"    {sum(g['received'] for g in got)} packets, none lost, none twice; {rekeys} rekeys, {churns} children came and went;"
          f" handed over {handed[0]:.0%} and {handed[1]:.0%}; {least} frames free at least")
    watch.end()


@test
def nat_rebinding(lab):
    """RFC 7296 §2.23: the NAT in front of a peer forgets its mapping; the next authentic packet says where the peer is now."""
    left, router, right = routed(lab)
    router.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; };"
               " add rule ip nat post oifname right0 udp sport 4500 masquerade to :21001;"
               " add rule ip nat post oifname right0 masquerade")
    router.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1", "net.netfilter.nf_conntrack_udp_timeout_stream=1")

    def conf(me, local, remote, near, far):
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
        esp_proposals = aes128gcm16
        local_ts = {near}
        remote_ts = {far}
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
"""
    left.address("10.77.1.1/32")
    right.address("10.77.2.1/32")
    there = Culvert(right, conf(2, "192.168.78.2", "%any", "10.77.2.0/24", "10.77.1.0/24"))
    ours = Culvert(left, conf(1, "192.168.77.1", "192.168.78.2", "10.77.1.0/24", "10.77.2.0/24"))
    ours.initiate()
    left.ping("10.77.1.1", "10.77.2.1", count=3)

    def remote_port():
        found = [word for word in listed(there).split() if word.startswith("remote-port=")]
        return found and found[0].split("=")[1]

    check(remote_port() == "21001", f"the peer is at port {remote_port()}")
    for port in (21002, 21003):
        router.run("nft", f"flush chain ip nat post; add rule ip nat post oifname right0 udp sport 4500 masquerade to :{port};"
                   " add rule ip nat post oifname right0 masquerade")
        time.sleep(2.2)  # The router forgets.
        # The answer to the packet that tells it may still go to where the peer was.
        left.ping("10.77.1.1", "10.77.2.1", count=1, ok=False, extra=("-W", "1"))
        left.ping("10.77.1.1", "10.77.2.1", count=3, interval=0.3)
        check(remote_port() == str(port), f"the peer is at port {remote_port()}, not {port}")
        # And the other way, to where it is now.
        right.ping("10.77.2.1", "10.77.1.1", count=2, interval=0.3)
    check(there.rows("main_mode.ike_main_mode") == [1], "without another IKE SA")
    for gateway in (ours, there):
        accounted(gateway)
        check(all(w["frames_out"] == 0 for w in gateway.workers()), "frames are missing")


def connect(source, target, here, there):
    """One TCP connection."""
    listener = target.start(sys.executable, "-c", f"import socket; print(socket.create_server(({there!r}, 2222),"
                            f" family=socket.AF_INET{'6' if ':' in there else ''}).accept())")
    code = f"import socket; socket.create_connection(({there!r}, 2222), 2, ({here!r}, 0))"
    eventually("a connection", lambda: source.run(sys.executable, "-c", code, ok=False).returncode == 0, 5)
    stop(listener)


@test
def segments_that_fit_both_ways(lab):
    """`clamp_mss` of one gateway does for connections of either side: on their way in, and on their way out of its tunnel."""
    client, left, right, server = lab.chain()
    gateways = [
        Culvert(host, site(n, 3 - n, "encap = no"), PORTS.format(workers=1) + ("  clamp_mss = yes\n" if n == 1 else ""))
        for host, n in ((left, 1), (right, 2))
    ]
    comes_up(client, (NEAR, FAR), (NEAR6, FAR6))
    inner = (1500 - (20 + 8 + 8 + 2 + 16) + 2) // 4 * 4 - 2
    for near, far, headers in ((NEAR, FAR, 40), (NEAR6, FAR6, 60)):
        for source, target, here, there in ((client, server, near, far), (server, client, far, near)):
            captures = [lab.capture(host, "eth0", "tcp or ip6 proto 6") for host in (client, server)]
            connect(source, target, here, there)
            for (process, path), host in zip(captures, (client, server)):
                stop(process)
                # What comes to the server went into the left tunnel, what comes to the client came out of it.
                arrived = [line for line in sh("tcpdump", "-nr", path).stdout.splitlines()
                           if "Flags [S" in line and f"> {near if host is client else far}." in line]
                check(arrived and all(f"mss {inner - headers}," in line for line in arrived),
                      f"to {host.name}, not {inner - headers}: {arrived[:2]}")
    print(f"    MSS {inner - 40} and {inner - 60} to either side")
    for gateway in gateways:
        accounted(gateway)
