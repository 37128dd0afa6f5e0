#!/usr/bin/env python3
"""ESP and AH of Culvert against an independent codec (`codec.py`): what one seals the other opens, byte by byte.

  differential.py [--binary CULVERT] [--seed N] [--lengths N] [--each N] [--mangle N]
  differential.py --whole [--part K/N] [--jobs N] [--binary CULVERT] [--seed N]

Every transform × mode × inner and outer family × UDP encapsulation × ESN. `--each N` seals N packets of random length from
0 to 1500 for each of these; `--lengths N` seals every N-th length from 0 to 1500 for each transform, over shapes at random
(`--lengths 1`: all of them). `--whole` leaves nothing to chance: each of the lengths 0 to 1500 for each of these, three million
packets, in N processes at once (all cores by default); it says how far it is. `--part K/N` does the K-th of N parts of that, so
that it can be run in pieces: the N parts with one seed are the whole, packet by packet. Each packet goes both ways: the codec seals
and Culvert opens, and Culvert seals the same and must make the same octets. `--mangle N` breaks the packets of N cases in every octet and to every length. Needs
python3-cryptography. The status is 1 if anything differs.
"""

import argparse
import collections
import concurrent.futures
import itertools
import os
import random
import struct
import sys
import time
from pathlib import Path

import codec
import runner

AEADS = [(alg, key, salt, icv) for alg, salt in (("AES_GCM", 4), ("AES_CCM", 3)) for key in (16, 24, 32) for icv in (8, 12, 16)]
AEADS += [("AES_GMAC", key, 4, 16) for key in (16, 24, 32)] + [("CHACHA20_POLY1305", 32, 4, 16)]
PLAIN_CIPHERS = [("AES_CBC", key, 0) for key in (16, 24, 32)] + [("AES_CTR", key, 4) for key in (16, 24, 32)]
PLAIN_CIPHERS += [("3DES_CBC", 24, 0), ("NULL", 0, 0)]
IV = {"AES_CBC": 16, "NULL": 0}
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
INNER = {4: ("10.1.0.1", "10.2.0.2"), 6: ("fd00:1::1", "fd00:2::2")}
SHAPES = [("tunnel", inner, outer) for inner in (4, 6) for outer in (4, 6)] + [("transport", v, v) for v in (4, 6)]


def suites():
    """(protocol, name, enc, auth) with keys left out."""
    for alg, key, salt, icv in AEADS:
        yield "esp", f"{alg}-{key * 8}-{icv}", (alg, key, salt), ("AEAD", 0, icv)
    for (alg, key, salt), mac in itertools.product(PLAIN_CIPHERS, codec.MACS):
        yield "esp", f"{alg}-{key * 8}/{mac}", (alg, key, salt), (mac, codec.mac_key_len(mac), codec.icv_len(mac))
    for mac in codec.MACS:
        yield "ah", f"AH/{mac}", ("NULL", 0, 0), (mac, codec.mac_key_len(mac), codec.icv_len(mac))
    for key in (16, 24, 32):
        yield "ah", f"AH/AES_GMAC-{key * 8}", ("NULL", 0, 0), ("AES_GMAC", key, 16)


def shapes(protocol):
    for (mode, inner, outer), encap, esn in itertools.product(SHAPES, (False, True), (False, True)):
        if not (protocol == "ah" and encap):
            yield mode, inner, outer, encap, esn


def plain_packet(rng, mode, version, length):
    """UDP, TCP or something else, with valid checksums, and in transport mode sometimes options or extension headers."""
    source, destination = OUTER[version] if mode == "transport" else INNER[version]
    data = rng.randbytes(length)
    kind = rng.choice(("udp", "tcp", "other"))
    if kind == "udp":
        protocol, data = 17, codec.udp(source, destination, rng.randrange(1, 4500), 53, data)
    elif kind == "tcp":
        head = struct.pack("!HHIIBBHHH", 1025, 80, rng.getrandbits(32), 0, 0x50, 0x10, 512, 0, 0)
        total = codec.checksum(codec.pseudo(source, destination, 6, 20 + length) + head + data)
        protocol, data = 6, head[:16] + struct.pack("!H", total) + head[18:] + data
    else:
        protocol = 47
    options = b""
    if mode == "transport" and rng.random() < 0.4:
        options = extra_headers(rng, version, protocol)
        if version == 6:
            protocol = 0
    ident = rng.getrandbits(16)
    return codec.ip_header(version, source, destination, protocol, len(data), ident=ident, options=options, ttl=rng.randrange(2, 256),
                           traffic_class=rng.choice((0, 0xB8)), flow=rng.getrandbits(20)) + data


def extra_headers(rng, version, protocol):
    if version == 4:
        record_route = bytes([7, 7, 4]) + rng.randbytes(4)
        router_alert = bytes([148, 4, 0, 0])
        return rng.choice((record_route + b"\1", router_alert, record_route + b"\0" + router_alert, b"\1\1\1\0"))
    hop_by_hop = bytes([protocol, 1, 0x3E, 4]) + rng.randbytes(4) + bytes([0x1E, 4]) + rng.randbytes(4) + b"\0\0"
    if rng.random() < 0.5:
        return hop_by_hop
    return bytes([43]) + hop_by_hop[1:] + bytes([protocol, 2, 3, 0]) + bytes(4) + rng.randbytes(16)


def case(rng, suite, shape, length):
    protocol, _, (alg, key, salt), (mac, mac_key, icv) = suite
    mode, inner, outer, encap, esn = shape
    iv = IV.get(alg, 8) if protocol == "esp" else 8 if mac == "AES_GMAC" else 0
    while True:
        key_bytes = rng.randbytes(key)
        thirds = {bytes(b & 0xFE for b in key_bytes[i : i + 8]) for i in (0, 8, 16)}
        if alg != "3DES_CBC" or len(thirds) == 3:
            break
    record = {
        "proto": protocol, "mode": mode, "spi": rng.randrange(256, 1 << 32), "esn": esn, "udp_encap": encap,
        "seq": rng.randrange(1, 1 << 32) | (rng.randrange(1, 1 << 31) << 32 if esn else 0),
        "enc": {"alg": alg, "key": key_bytes.hex(), "salt": rng.randbytes(salt).hex()},
        "auth": {"alg": mac, "key": rng.randbytes(mac_key).hex(), "icv_len": icv},
        "iv": rng.randbytes(iv).hex(), "packet_start": "ip", "plain_is": "inner_ip" if mode == "tunnel" else "original_ip",
    }
    if mac == "AES_GMAC":
        record["auth"]["salt"] = rng.randbytes(4).hex()
    # The window needs a place behind the number for its own.
    record["seq"] = max(record["seq"], 1)
    tfc = 0
    if protocol == "esp" and rng.random() < 0.25:
        align = {"AES_CBC": 16, "3DES_CBC": 8}.get(alg, 4)
        plain = plain_packet(rng, mode, inner, length)
        carried = len(plain) if mode == "tunnel" else len(codec.transport_parts(plain)[3])
        record["pad_len"] = -(carried + 2) % align + align * rng.randrange(0, (255 - 15) // align)
    else:
        plain = plain_packet(rng, mode, inner, length)
        if protocol == "esp" and mode == "tunnel" and rng.random() < 0.1:
            tfc = rng.randrange(1, 64)
    if protocol == "esp":
        sealed = codec.seal_esp(record, plain, OUTER[outer], tfc)
    else:
        sealed = codec.seal_ah(record, plain, OUTER[outer])
    record["packet"], record["plain"] = sealed.hex(), plain.hex()
    return record, tfc


def mangled(rng, record):
    """Every octet changed, every shorter length, some longer ones, and lengths in the headers that lie."""
    packet = bytes.fromhex(record["packet"])
    for at in range(len(packet)):
        for bit in {rng.randrange(8), rng.randrange(8)}:
            changed = bytearray(packet)
            changed[at] ^= 1 << bit
            yield at, bytes(changed)
    for length in range(len(packet)):
        yield None, packet[:length]
        cut = bytearray(packet[:length])
        if length >= 40:
            if cut[0] >> 4 == 4:
                header = (cut[0] & 15) * 4
                cut[2:4] = struct.pack("!H", length)
                cut[10:12] = b"\0\0"
                cut[10:12] = struct.pack("!H", codec.checksum(bytes(cut[:header])))
            else:
                cut[4:6] = struct.pack("!H", length - 40)
            yield None, bytes(cut)


def compare(binary, suite, cases, counts, shown=10):
    """Each case both ways; how many were wrong."""
    requests, expected, wrong = [], [], 0
    for record, tfc in cases:
        given = {key: value for key, value in record.items() if key != "plain"}
        requests.append({**given, "op": f"{record['proto']}_open"})
        expected.append(("plain", record["plain"]))
        if not tfc:
            requests.append({**record, "op": f"{record['proto']}_seal"})
            expected.append(("packet", record["packet"]))
    for request, answer, (field, value) in zip(requests, runner.ask(binary, requests), expected):
        counts[request["op"]] += 1
        if not answer["ok"] or answer[field] != value:
            wrong += 1
            if wrong <= shown:
                print(f"WRONG {suite[1]} {request['op']} {request['mode']} esn={request['esn']} encap={request['udp_encap']}"
                      f" iv={request['iv']}\n  {str(answer)[:300]}\n  wanted {field} {value[:300]}\n  packet {request['packet'][:300]}")
    return wrong


LENGTHS = 1501


def every_length(binary, seed, suite, shape):
    """Every length of one transform in one shape, under keys of their own."""
    rng, counts = random.Random(f"{seed} {suite} {shape}"), collections.Counter()
    cases = [case(rng, suite, shape, length) for length in range(LENGTHS)]
    return counts, compare(binary, suite, cases, counts, shown=1)


def part_of(text):
    """`K/N` as (K, N)."""
    part, parts = (int(number) for number in text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def whole(binary, seed, jobs, part, parts):
    """Every length of every transform in every shape, or a part of the shapes."""
    counts, wrong, started, said = collections.Counter(), 0, time.monotonic(), 0
    todo = [(suite, shape) for suite in suites() for shape in shapes(suite[0])][part - 1 :: parts]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        running = [pool.submit(every_length, binary, seed, suite, shape) for suite, shape in todo]
        for done, future in enumerate(concurrent.futures.as_completed(running), 1):
            more, bad = future.result()
            counts += more
            wrong += bad
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"  {done} of {len(todo)} shapes, {sum(counts.values())} operations, wrong {wrong}, {said - started:.0f} s", flush=True)
    total = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    transforms = len({suite[1] for suite, _ in todo})
    print(f"differential: seed {seed}: part {part}/{parts}: {len(todo)} shapes of {transforms} transforms, {LENGTHS} lengths each: {total};"
          f" wrong {wrong}; {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--seed", type=int, default=None, help="the clock's by default; it is printed")
    parser.add_argument("--lengths", type=int, default=0)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--mangle", type=int, default=12)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--part", type=part_of, default=(1, 1), metavar="K/N", help="of --whole; the whole of it by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    binary = args.binary or runner.default_binary()
    seed = args.seed if args.seed is not None else time.time_ns() % 1_000_000_007
    if args.whole:
        return whole(binary, seed, args.jobs, *args.part)
    rng, started = random.Random(seed), time.monotonic()
    counts, wrong, sample = collections.Counter(), 0, []
    for suite in suites():
        todo = [(shape, rng.randrange(1501)) for shape in shapes(suite[0]) for _ in range(args.each)]
        if args.lengths:
            todo += [(rng.choice(list(shapes(suite[0]))), length) for length in range(0, 1501, args.lengths)]
        cases = [case(rng, suite, shape, length) for shape, length in todo]
        wrong += compare(binary, suite, cases, counts)
        short = [record for record, _ in cases if len(record["packet"]) < 400]
        sample += short[:1] or [cases[0][0]]
    rng.shuffle(sample)
    for record in sample[: args.mangle]:
        packet = bytes.fromhex(record["packet"])
        broken = list(mangled(rng, record))
        requests = [{**record, "op": f"{record['proto']}_open", "packet": bytes(b).hex()} for _, b in broken]
        for (at, changed), answer in zip(broken, runner.ask(binary, requests)):
            counts["mangled"] += 1
            # What routers change, and what no transform of ESP covers, may come through; what comes out is what went in.
            if answer["ok"] and (at is None or not harmless(record, packet, at)):
                wrong += 1
                print(f"ACCEPTED {record['enc']['alg']}/{record['auth']['alg']} {record['proto']} {record['mode']} octet {at}: {changed.hex()[:200]}")
    total = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"differential: seed {seed}: {total}; wrong {wrong}; {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


def harmless(record, packet, at):
    """Whether an octet may be changed on the way: the outer IP header of ESP, its UDP header, what AH takes as zeros."""
    if record["proto"] == "esp":
        header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else len(codec.transport_parts(packet)[0]) if record["mode"] == "transport" else 40
        return at < header + (8 if record["udp_encap"] else 0)
    header = len(codec.transport_parts(packet)[0])
    if at >= header:
        return False
    changed = bytearray(packet[:header])
    changed[at] ^= 0xFF
    try:
        return codec.immutable(bytes(changed))[at] == codec.immutable(packet[:header])[at]
    except IndexError:
        return False


if __name__ == "__main__":
    sys.exit(main())
