#!/usr/bin/env python3
"""How fast over AF_XDP on veth pairs: the gateway's own time a packet, and TCP through two gateways.

  speed.py [--binary target/release/culvert] [--rounds 3] [--seconds 3] [--json FILE]

First `culvert bench --interface` between the two ends of a veth pair: what the gateway takes beside a bare AF_XDP forwarder and the bare
cipher. Then client - gateway - gateway - server, the gateways on a core each, by turns: strongSwan with its userspace ESP, Culvert, and
bare forwarders (dataplane/af_xdp/examples/forward.rs) that neither encrypt nor look. Needs root, strongSwan, and

  cargo build --release && cargo build --release -p af_xdp --example forward
"""

import argparse
import json
import os
import statistics
import sys

from lab import ROOT, Charon, Culvert, Failed, Lab, check, eventually, sh, stop
from sites import PORTS, site

NET = ("10.77.1.10", "10.77.2.10")
PACE = "200M"


def bench(lab, seconds):
    """The figures of `culvert bench --interface`, by direction and size."""
    host = lab.host("V")
    sh("ip", "link", "add", "va", "netns", host.ns, "type", "veth", "peer", "name", "vb", "netns", host.ns)
    for device in ("va", "vb"):
        host.run("ip", "link", "set", device, "up")
    done = host.run(lab.binary, "bench", "--interface", "va,vb", "--sizes", "64,512,1420", "--seconds", seconds, "--json", timeout=120)
    return json.loads(done.stdout)


def pin(process, core):
    sh("taskset", "-acp", core, process.pid)


def strongswan(left, right, cores):
    """Two charons; what is to be stopped."""
    ends = []
    for host, n, core in ((left, 1, cores[0]), (right, 2, cores[1])):
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Proposals of the same strength; kernel-libipsec has no vector AES-GCM of its own.
        end = Charon(host, site(n, 3 - n).replace("start_action = trap", "start_action = none"))
        pin(end.process, core)
        ends.append(end)
    ends[0].swanctl("--initiate", "--child", "net4")
    return ends


def culvert(left, right, cores):
    ends = []
    for host, n, core in ((left, 1, cores[0]), (right, 2, cores[1])):
        end = Culvert(host, site(n, 3 - n), PORTS.format(workers=1))
        pin(end.process, core)
        ends.append(end)
    return ends


class Forwarder:
    def __init__(self, host, core, *arguments):
        log = host.lab.dir / f"forward-{host.name}"
        self.process = host.start(ROOT / "target" / "release" / "examples" / "forward", *arguments, log=log)
        eventually("the forwarder", lambda: "forwarding" in log.read_text(), seconds=5)
        pin(self.process, core)

    def stop(self):
        stop(self.process)


def forwarders(left, right, cores):
    def mac(host, device):
        return json.loads(host.run("ip", "-j", "link", "show", device).stdout)[0]["address"]

    client, server = left.lab.hosts["C"], left.lab.hosts["S"]
    near, far = "10.77.1.0/24", "10.77.2.0/24"
    return [
        Forwarder(left, cores[0], "lan0", mac(client, "eth0"), near, "wan0", mac(right, "wan0"), far),
        Forwarder(right, cores[1], "lan0", mac(server, "eth0"), far, "wan0", mac(left, "wan0"), near),
    ]


SUBJECTS = {"strongSwan, userspace ESP": strongswan, "Culvert": culvert, "bare forwarders": forwarders}


def measure(binary, prefix, start, seconds):
    """One subject on hosts of its own: TCP both ways, Mbit/s, and what a paced UDP run lost."""
    lab = Lab(binary, prefix)
    try:
        client, left, right, server = lab.chain()
        cores = sorted(os.sched_getaffinity(0))
        cores = (cores[0], cores[-1])
        ends = start(left, right, cores)
        eventually("a path", lambda: client.ping(*NET, count=1, ok=False), seconds=8)
        tcp = [client.iperf(server, *NET, seconds=seconds, reverse=reverse)[0] for reverse in (False, True)]
        def of_the_ends():
            return client.overflowed() + server.overflowed()

        before = of_the_ends()
        rate, (sent, lost) = client.iperf(server, *NET, seconds=seconds, udp=PACE)
        # What the receiver's own socket had no room for went through both gateways.
        at_ends = min(of_the_ends() - before, lost)
        for end in ends:
            end.stop()
        return {"out": tcp[0], "in": tcp[1], "udp": rate, "udp_sent": sent, "udp_lost": lost, "udp_lost_at_ends": at_ends}
    finally:
        lab.close()


def row(name, runs, bare, peer):
    def middle(key):
        return statistics.median(run[key] for run in runs)

    both = middle("out") + middle("in")
    print(f"{name:26}{middle('out'):8.0f}{middle('in'):8.0f}{both / bare:9.2f}{both / peer:12.2f}"
          f"{max(run['udp_lost'] - run['udp_lost_at_ends'] for run in runs):10}"
          f"{max(run['udp_lost_at_ends'] for run in runs):9}")


def both_ways(runs):
    return statistics.median(run["out"] for run in runs) + statistics.median(run["in"] for run in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target" / "release" / "culvert")
    parser.add_argument("--prefix", default="cvs")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many; the subjects take turns")
    parser.add_argument("--seconds", type=int, default=3, help="of each iperf3 run")
    parser.add_argument("--json", help="write everything here")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("speed.py needs root: it makes network namespaces")
    forward = ROOT / "target" / "release" / "examples" / "forward"
    if not forward.exists():
        sys.exit("build it first: cargo build --release -p af_xdp --example forward")

    lab = Lab(options.binary, options.prefix)
    try:
        figures = bench(lab, options.seconds)
    finally:
        lab.close()
    machine = figures["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load']}\n")
    print("Over a veth pair, a packet's busy nanoseconds at saturation (asked: ratio 1.3)")
    print("  way  size   gateway   forwarder   engine   ratio    Mpps  forwarder Mpps   lost")
    for point in figures["points"]:
        over, engine = point["over_ports"], point["aead"]["culvert"]["median"]
        print(f"{point['direction']:>5}{point['size']:6}{over['busy']['median']:10.0f}{over['forwarder']['median']:12.0f}"
              f"{engine:9.0f}{over['to_parts']:8.2f}{over['mpps']:8.3f}{over['forwarder_mpps']:16.3f}{over['lost']:7}")

    runs = {name: [] for name in SUBJECTS}
    for _ in range(options.rounds):
        for name, start in SUBJECTS.items():
            runs[name].append(measure(options.binary, options.prefix, start, options.seconds))
    bare, peer = both_ways(runs["bare forwarders"]), both_ways(runs["strongSwan, userspace ESP"])
    print(f"\nclient - gateway - gateway - server, TCP in Mbit/s, medians of {options.rounds}; asked: 0.6 of"
          "\nthe bare chain or 3 times strongSwan, and nothing lost of UDP at 200 Mbit/s")
    print("                               out      in  to bare   to strongSwan  UDP lost  at ends")
    for name, found in runs.items():
        row(name, found, bare, peer)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"bench": figures, "chain": runs}, out, indent=1)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(str(failure))
