"""Numbered UDP packets at a steady rate, and what became of them.

  sequence.py send ADDRESS SOURCE PORT RATE COUNT [FLOWS]   sends COUNT packets, RATE a second, from FLOWS ports in turn
  sequence.py receive ADDRESS PORT COUNT IDLE               until COUNT came or IDLE seconds passed without any; prints JSON
"""

import json
import socket
import struct
import sys
import time


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def send(address, source, port, rate, count, flows=1):
    socks = [socket.socket(family(address), socket.SOCK_DGRAM) for _ in range(flows)]
    for sock in socks:
        sock.bind((source, 0))
        sock.connect((address, port))
    start = time.monotonic()
    failed = 0
    for number in range(count):
        ahead = start + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        try:
            socks[number % flows].send(struct.pack("!Q", number) + bytes(56))
        except OSError:
            failed += 1
    print(json.dumps({"sent": count - failed, "refused": failed, "seconds": time.monotonic() - start}))


def receive(address, port, count, idle):
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
    sock.bind((address, port))
    # The first packet may wait for a tunnel to come up.
    sock.settimeout(max(idle, 15))
    seen, duplicates, late, highest = set(), 0, 0, -1
    try:
        while len(seen) < count:
            number = struct.unpack("!Q", sock.recv(2048)[:8])[0]
            sock.settimeout(idle)
            duplicates += number in seen
            late += number < highest
            highest = max(highest, number)
            seen.add(number)
    except TimeoutError:
        pass
    # A duplicate may follow the last one.
    sock.settimeout(0.3)
    try:
        while True:
            duplicates += struct.unpack("!Q", sock.recv(2048)[:8])[0] in seen
    except TimeoutError:
        pass
    missing = [n for n in range(count) if n not in seen]
    print(json.dumps({"received": len(seen), "duplicates": duplicates, "late": late, "missing": missing[:20], "lost": len(missing)}))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "send":
        send(rest[0], rest[1], int(rest[2]), float(rest[3]), *map(int, rest[4:]))
    else:
        receive(rest[0], int(rest[1]), int(rest[2]), float(rest[3]))
