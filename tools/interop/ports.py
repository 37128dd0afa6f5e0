"""Ports whose devices change, and the frames on them: carrier, MTU, address, queues, deletion and return."""

import time

from lab import Culvert, check, eventually, sh, stop
from sites import PORTS, four_hosts, site
from traffic import accounted

TESTS = {}

NEAR, FAR = "10.77.1.10", "10.77.2.10"


def test(function):
    TESTS[function.__name__] = function
    return function


def link(gateway, device, name):
    """A figure of a port's life."""
    blocks = gateway.stats()["blocks"]
    return next(b for b in blocks if b["name"] == "link" and b["instance"] == device)["values"][name]


def frames(gateway):
    """Frames of each worker: lent for packets to come (what comes in less than a batch is not lent anew), sending, missing."""
    return [(round(w["frames_receiving"] / 256), w["frames_sending"], w["frames_lent"]) for w in gateway.workers()]


def resumes(client, near=NEAR, far=FAR, seconds=8):
    """Pings until there is an answer again; then all of five."""
    eventually("traffic to resume", lambda: client.ping(near, far, count=1, ok=False, extra=("-w", 1)) == 1, seconds)
    client.ping(near, far, count=5, interval=0.05)


class Watch:
    """Nothing in clear on the wire between the gateways, no frame lost and nobody dead at the end."""

    def __init__(self, lab, gateways, wire):
        self.lab, self.gateways, self.wire = lab, gateways, wire
        self.capture()
        self.before = [frames(gateway) for gateway in gateways]

    def capture(self):
        self.tcpdump, self.path = self.lab.capture(self.wire, "wan0", "icmp or (ip proto 4)")

    def nothing_in_clear(self):
        stop(self.tcpdump)
        shown = sh("tcpdump", "-nr", self.path, "net", "10.77.0.0/16", ok=False).stdout.strip().splitlines()
        check(not shown, f"{len(shown)} protected packets in clear, first: {shown[:1]}")

    def end(self, rested=False):
        self.nothing_in_clear()
        for gateway, before in zip(self.gateways, self.before):
            check(gateway.process.poll() is None, f"culvert ended: {gateway.tail()}")
            check("panicked" not in gateway.log.read_text(), f"a thread panicked: {gateway.tail()}")
            accounted(gateway)
            # Chunks of a closed socket come back after two seconds.
            eventually("all frames in their places", lambda: frames(gateway) == before, 5 if rested else 3)


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
