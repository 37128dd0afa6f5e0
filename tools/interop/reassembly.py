"""What strangers can make of fragments, which the kernel puts together for the gateway."""

from frames import ethernet, ipv4
from lab import Culvert, check
from ports import address_of, send_frames
from sites import PORTS, site
from traffic import accounted

TESTS = {}

FLOOD, LENGTH = 20_000, 1400
# What the kernel may hold beyond its threshold: one packet's worth on each processor.
SLACK = 1 << 20
# Growth of the daemon that is no growth: the allocator's pages, and what a turn of its loop holds.
NOISE = 1 << 20


def test(function):
    TESTS[function.__name__] = function
    return function


def resident(gateway):
    status = gateway.host.run("cat", f"/proc/{gateway.process.pid}/status").stdout
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10


def held(host):
    """Packets that the host's kernel has pieces of, and the octets that they take."""
    text = host.run("cat", "/proc/net/sockstat").stdout
    words = next(line.split() for line in text.splitlines() if line.startswith("FRAG"))
    return int(words[2]), int(words[4])


@test
def flood_of_first_fragments(lab):
    """First fragments of ESP whose rest never comes: the kernel holds its threshold of them, the daemon none."""
    client, left, right, server = lab.chain()
    gateways = [Culvert(host, site(n, 3 - n, "encap = no"), PORTS.format(workers=1)) for host, n in ((left, 1), (right, 2))]
    client.ping("10.77.1.10", "10.77.2.10", count=1)
    ours, theirs = address_of(left, "wan0"), address_of(right, "wan0")
    threshold = int(left.run("sysctl", "-n", "net.ipv4.ipfrag_high_thresh").stdout)
    before, most = resident(gateways[0]), 0
    for at in range(0, FLOOD, 2000):
        made = [
            ethernet(theirs, ours, [], 0x0800, ipv4(
                f"192.168.77.{3 + n % 250}", "192.168.77.1", (0xC0FFEE00).to_bytes(4, "big") + bytes(LENGTH - 4),
                protocol=50, identification=n % 0x10000, flags=0x2000))
            for n in range(at, at + 2000)
        ]
        send_frames(right, "wan0", made, count=0, seconds=0.1)
        packets, octets = held(left)
        most = max(most, octets)
    grown = resident(gateways[0]) - before
    print(f"    {FLOOD} first fragments: the kernel held at most {most} octets of {threshold}, now {packets} packets; the daemon grew by {grown}")
    check(packets > 500, f"{packets} packets are held: the fragments did not come to the kernel")
    check(most <= threshold + SLACK, f"the kernel holds {most} octets, beyond {threshold}")
    check(grown < NOISE, f"the daemon grew by {grown} octets")
    client.ping("10.77.1.10", "10.77.2.10", count=5)
    for gateway in gateways:
        accounted(gateway)
