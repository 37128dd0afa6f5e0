"""Packets that a stranger on the wire would send, and the one counter each of them has to move."""

import json
import time

from lab import check, stop

# Scapy is Debian's package, which another Python in the path does not see.
DEBIAN_PYTHON = "/usr/bin/python3"

ROWS = {
    "replayed": "quick_mode.packets_with_replay_detection",
    "flipped bit": "quick_mode.packets_not_authenticated",
    "unknown SPI": "quick_mode.bad_spi_packets",
    "truncated IKE": "main_mode.invalid_packets_received",
    "unknown cookies": "main_mode.invalid_cookies_received",
}

SENDER = """
import json, sys
from scapy.all import rdpcap, sendp, Ether, IP, UDP, Raw
device, what, pcap = sys.argv[1:4]
packets = [p for p in rdpcap(pcap) if UDP in p and p[UDP].sport == 4500 and bytes(p[UDP].payload)[:4] != bytes(4)
           and len(bytes(p[UDP].payload)) > 40]
esp = packets[-1]
body = bytearray(bytes(esp[UDP].payload))
port = 4500
if what == "flipped bit":
    # A fresh number, so that the replay check lets it pass to the ICV.
    body[4:8] = (int.from_bytes(body[4:8], "big") + 9).to_bytes(4, "big")
    body[-1] ^= 1
elif what == "unknown SPI":
    # The slot and core of an SA that is there, but another generation of it.
    body[0] ^= 0x40
elif what in ("truncated IKE", "unknown cookies"):
    # A header and an encrypted payload that is as long as it says; the first promises more than there is.
    length = 200 if what == "truncated IKE" else 28 + 36
    body = bytes(4) + b"\\x11" * 8 + b"\\x22" * 8 + bytes([46, 0x20, 37, 8]) + bytes(4) + length.to_bytes(4, "big")
    body += bytes([0, 0, 0, 36]) + bytes(range(32))
eth = Ether(src=esp[Ether].src, dst=esp[Ether].dst)
sendp(eth / IP(src=esp[IP].src, dst=esp[IP].dst) / UDP(sport=4500, dport=port, chksum=0) / Raw(bytes(body)), iface=device, verbose=0)
"""


def run(lab, ours, here, there, net):
    """Sends each attack once from `there` and looks at every row after it."""
    process, path = lab.capture(there, "wan0", "udp port 4500")
    here.ping(*net, count=2)
    time.sleep(0.3)
    stop(process)
    names = list(ROWS.values())
    for what, row in ROWS.items():
        before = ours.rows(*names)
        there.run(DEBIAN_PYTHON, "-c", SENDER, "wan0", what, path)
        time.sleep(0.5)
        moved = {name: now - then for name, now, then in zip(names, ours.rows(*names), before) if now != then}
        check(moved == {row: 1}, f"{what}: moved {json.dumps(moved)}, not {row} by 1")


def many_fragments(lab, receiver, device):
    """How many fragments came to `receiver`."""
    text = receiver.run("tcpdump", "-nr", device, "ip[6:2] & 0x3fff != 0", ok=False).stdout
    return len(text.strip().splitlines())
