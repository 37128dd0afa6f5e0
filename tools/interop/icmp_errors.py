"""ICMP errors of routers behind a gateway, against policies (RFC 4301 §6)."""

import time

from frames import checksum, echo, ethernet, ipv4
from lab import Culvert, check, stop
from ports import address_of, more_drops, send_frames
from sites import PORTS, site
from traffic import accounted

TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


def counted(gateway, name):
    return sum(worker[name] for worker in gateway.workers())


@test
def errors_of_routers_elsewhere(lab):
    """A router behind the gateway whose address no child has: its ICMP errors go in clear, until a child with `mode = drop` stops them."""
    client, left, right, server = lab.chain()
    gateways = [Culvert(host, site(n, 3 - n, "encap = no"), PORTS.format(workers=1)) for host, n in ((left, 1), (right, 2))]
    client.ping("10.77.1.10", "10.77.2.10", count=2)
    right.route("10.77.1.0/24", "via", "192.168.77.1")
    # What no child names is not steered to the workers: the kernels forward it, as they do without Culvert.
    right.route("10.99.0.0/24", "via", "10.77.2.10")
    left.route("10.99.0.0/24", "via", "192.168.77.2")
    for host in (left, right):
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    ours, theirs = address_of(right, "lan0"), address_of(server, "eth0")
    packet = ipv4("10.77.1.10", "10.77.2.10", echo(7, 7, 32), identification=5)
    unreachable = b"\x03\x01\0\0\0\0\0\0" + packet[:60]
    error = unreachable[:2] + checksum(unreachable).to_bytes(2, "big") + unreachable[4:]

    def send(router):
        before = gateways[1].drops()
        sealed, opened = (counted(gateway, row) for gateway, row in zip(reversed(gateways), ("sealed_packets", "opened_packets")))
        capture, path = lab.capture(client, "eth0", "icmp[0] = 3")
        frame = ethernet(theirs, ours, [], 0x0800, ipv4(router, "10.77.1.10", error))
        send_frames(server, "eth0", [frame], count=0, seconds=0.1)
        time.sleep(0.5)
        stop(capture)
        came = len(client.run("tcpdump", "-nr", path, ok=False).stdout.splitlines())
        protected = (counted(gateways[1], "sealed_packets") - sealed, counted(gateways[0], "opened_packets") - opened)
        return came, protected, more_drops(gateways[1], before)

    check(send("10.77.2.200") == (1, (1, 1), {}), "a router with an address of the child is not protected")
    said = send("10.99.0.1")
    check(said == (1, (0, 0), {}), f"a router elsewhere: {said}, not in clear")
    drop = """
      errors {
        mode = drop
        local_ts = 0.0.0.0/0[icmp]
        remote_ts = 10.77.1.0/24
        start_action = trap
      }
      net4 {"""
    text = gateways[1].config.read_text()
    gateways[1].config.write_text(text.replace("\n      net4 {", drop, 1))
    gateways[1].command("reload")
    said = send("10.99.0.1")
    check(said == (0, (0, 0), {"policy_discard": 1}), f"with the child that drops: {said}")
    check(send("10.77.2.200") == (1, (1, 1), {}), "what the child protects is dropped")
    for gateway, key in zip(gateways, ("remote_ts", "local_ts")):
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace(f"{key} = 10.77.2.0/24", f"{key} = 10.77.2.0/24, 10.99.0.1[icmp]", 1))
        gateway.command("reload")
    gateways[0].command("terminate", "--ike", "site")
    client.ping("10.77.1.10", "10.77.2.10", count=2)
    said = send("10.99.0.1")
    check(said == (1, (1, 1), {}), f"with the router in the child: {said}")
    client.ping("10.77.1.10", "10.77.2.10", count=2)
    for gateway in gateways:
        accounted(gateway)
