#!/usr/bin/env python3
"""A peer of main mode and quick mode with a preshared key, written from RFC 2407, RFC 2408 and RFC 2409 alone, for what strongSwan does
not send: the commit bit, CONNECTED and RESPONDER-LIFETIME.

  v1_peer.py ROLE LOCAL REMOTE BIT TOLD

ROLE is `initiator` or `responder`, of both phases. BIT says in which message of quick mode it sets the commit bit: `first`, `second`,
`third`, `none`. TOLD says how it then tells that it is CONNECTED: `quick` (a fourth message of quick mode), `same` (an informational
exchange under the same message ID), `other` (one of its own, by SPI), or `never`.

With `phase1` in the place of BIT it says RESPONDER-LIFETIME beside the HASH of its sixth message, twelve seconds, and waits for the main
mode by which the other side renews the ISAKMP SA.

It counts the ESP packets that come before and after that. As responder it takes a lifetime of an hour and says RESPONDER-LIFETIME: eight
seconds and 500 KB; and, where BIT is `none`, waits for the quick mode by which the other side renews the SA in time. As initiator it offers an hour and wants
to be told the other side's 600 s. Prints one line of JSON.
"""

import hashlib
import json
import os
import select
import socket
import struct
import sys
import time

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gss_messages import HASH, ID, KE, NONCE, SA, attributes, expect, payloads
from isakmp import chain, chain_length, group_14, prf

SECRET = b"interop-psk-0123456789"
NOTIFY = 11
MAIN_MODE, INFORMATIONAL, QUICK_MODE = 2, 5, 32
ENCRYPTED, COMMIT = 1, 2
CONNECTED, RESPONDER_LIFETIME = 16384, 24576
ISAKMP, ESP = 1, 3
FQDN, SUBNET = 2, 4
SPI = b"\x51\x52\x53\x54"
# Life type seconds and duration (RFC 2407 §4.5).
HOUR = [(1, 1), (2, 3600)]


def encoded(found):
    out = b""
    for kind, value in found:
        if isinstance(value, bytes):
            out += struct.pack("!HH", kind, len(value)) + value
        else:
            out += struct.pack("!HH", 0x8000 | kind, value)
    return out


def sa_body(protocol, spi, identifier, found):
    """One proposal with one transform (RFC 2408 §3.4 to §3.6)."""
    body = encoded(found)
    transform = struct.pack("!BBHBBH", 0, 0, 8 + len(body), 1, identifier, 0) + body
    proposal = struct.pack("!BBHBBBB", 0, 0, 8 + len(spi) + len(transform), 1, protocol, len(spi), 1) + spi + transform
    return struct.pack("!II", 1, 1) + proposal


PHASE_1 = sa_body(1, b"", 1, [(1, 7), (14, 128), (2, 4), (4, 14), (3, 1), (11, 1), (12, 3600)])
# AES-CBC-128 with HMAC-SHA2-256 in tunnel mode.
PHASE_2 = [(4, 1), (5, 5), (6, 128)]


def identity(name):
    return struct.pack("!BBH", FQDN, 0, 0) + name


def client(network):
    return struct.pack("!BBH", SUBNET, 0, 0) + socket.inet_aton(network) + socket.inet_aton("255.255.255.0")


class Peer:
    def __init__(self, role, local, remote, bit, told):
        self.asks, self.bit, self.told = role == "initiator", bit, told
        self.remote = remote
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((local, 500))
        self.esp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
        self.esp.bind((local, 0))
        self.cookies = [os.urandom(8), bytes(8)] if self.asks else [bytes(8), os.urandom(8)]
        self.packets = []
        self.vectors = {}
        self.nets = [client("10.77.1.0"), client("10.77.2.0")]

    # Messages.

    def send(self, exchange, first, body, flags=0, number=0):
        header = b"".join(self.cookies) + struct.pack("!BBBBII", first, 0x10, exchange, flags, number, 28 + len(body))
        self.udp.sendto(header + body, (self.remote, 500))

    def next(self, seconds):
        """The next datagram, or nothing within the time; ESP is counted meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for ready in select.select([self.udp, self.esp], [], [], left)[0]:
                if ready is self.udp:
                    return self.udp.recv(65535)
                packet = self.esp.recv(65535)
                inside = packet[4 * (packet[0] & 15):]
                self.packets.append((time.monotonic(), inside[:4]))
        return None

    def receive(self, exchange, seconds=5, number=None):
        """Payloads of the next message of this exchange; others are passed over. Returns first payload, body, message ID."""
        end = time.monotonic() + seconds
        while True:
            message = self.next(end - time.monotonic())
            expect(message is not None, f"no message of exchange {exchange}")
            first, version, kind, flags, found, length = struct.unpack("!BBBBII", message[16:28])
            expect(version == 0x10 and length == len(message), "version and length")
            if kind != exchange or (number is not None and found != number):
                continue
            if not self.asks and self.cookies[0] == bytes(8):
                self.cookies[0] = message[:8]
            if self.asks and self.cookies[1] == bytes(8):
                self.cookies[1] = message[8:16]
            expect(flags == (ENCRYPTED if found or self.vectors else 0), f"flags {flags}")
            return first, message[28:], found

    # Encryption: each exchange has its chain (RFC 2409 appendix B).

    def vector(self, number):
        if number not in self.vectors:
            self.vectors[number] = hashlib.sha256(self.last + struct.pack("!I", number)).digest()[:16]
        return self.vectors[number]

    def seal(self, items, number, iv=None):
        plain = chain(*items)
        plain += bytes(-len(plain) % 16)
        cipher = Cipher(algorithms.AES(self.key), modes.CBC(iv or self.vector(number))).encryptor()
        sealed = cipher.update(plain) + cipher.finalize()
        self.vectors[number] = sealed[-16:]
        return sealed

    def open(self, first, sealed, number):
        cipher = Cipher(algorithms.AES(self.key), modes.CBC(self.vector(number))).decryptor()
        plain = cipher.update(sealed) + cipher.finalize()
        self.vectors[number] = sealed[-16:]
        return payloads(first, plain[:chain_length(first, plain)])

    def hashed(self, number, items, *before):
        """HASH in front: prf(SKEYID_a, M-ID | before | what follows)."""
        covered = chain(*items) if items else b""
        return [(HASH, prf(self.a, struct.pack("!I", number), *before, covered)), *items]

    def checked(self, found, number, *before):
        expect(found[0][0] == HASH, "HASH first")
        right = prf(self.a, struct.pack("!I", number), *before, chain(*found[1:]))
        expect(found[0][1] == right, "HASH is not what RFC 2409 says")
        return found[1:]

    # Main mode (RFC 2409 §5.4).

    def main_mode(self):
        p, x = group_14(), int.from_bytes(os.urandom(64), "big")
        own, nonce = pow(2, x, p).to_bytes(256, "big"), os.urandom(24)
        if self.asks:
            self.send(MAIN_MODE, SA, chain((SA, PHASE_1)))
            first, body, _ = self.receive(MAIN_MODE)
            expect(payloads(first, body)[0] == (SA, PHASE_1), "the SA as it was offered")
            sa = PHASE_1
            self.send(MAIN_MODE, KE, chain((KE, own), (NONCE, nonce)))
            theirs = dict(payloads(*self.receive(MAIN_MODE)[:2]))
        else:
            first, body, _ = self.receive(MAIN_MODE, seconds=10)
            kind, sa = payloads(first, body)[0]
            expect(kind == SA, "SA first")
            self.send(MAIN_MODE, SA, chain((SA, sa)))
            theirs = dict(payloads(*self.receive(MAIN_MODE)[:2]))
            self.send(MAIN_MODE, KE, chain((KE, own), (NONCE, nonce)))
        secret = pow(int.from_bytes(theirs[KE], "big"), x, p).to_bytes(256, "big")
        nonces = [nonce, theirs[NONCE]] if self.asks else [theirs[NONCE], nonce]
        publics = [own, theirs[KE]] if self.asks else [theirs[KE], own]
        both = b"".join(self.cookies)
        skeyid = prf(SECRET, *nonces)
        d = prf(skeyid, secret, both, b"\0")
        self.a = prf(skeyid, d, secret, both, b"\1")
        self.key = prf(skeyid, self.a, secret, both, b"\2")[:16]
        self.vectors[0] = hashlib.sha256(b"".join(publics)).digest()[:16]
        names = [identity(b"a.interop.test"), identity(b"b.interop.test")]
        proof_i = prf(skeyid, *publics, *self.cookies, sa, names[0])
        proof_r = prf(skeyid, *reversed(publics), *reversed(self.cookies), sa, names[1])
        mine, yours = (proof_i, proof_r) if self.asks else (proof_r, proof_i)
        name, other = names if self.asks else reversed(names)
        if self.asks:
            self.send(MAIN_MODE, ID, self.seal([(ID, name), (HASH, mine)], 0), ENCRYPTED)
        first, body, _ = self.receive(MAIN_MODE)
        found = self.open(first, body, 0)
        expect(found[:2] == [(ID, other), (HASH, yours)], "the other side's ID and HASH")
        self.said = [self.lifetime(body, ISAKMP, b"".join(self.cookies)) for kind, body in found
                     if kind == NOTIFY and body[6:8] == struct.pack("!H", RESPONDER_LIFETIME)]
        if not self.asks:
            items = [(ID, name), (HASH, mine)]
            if self.bit == "phase1":
                limits = encoded([(1, 1), (2, (12).to_bytes(4, "big"))])
                told = struct.pack("!IBBH", 1, ISAKMP, 16, RESPONDER_LIFETIME) + b"".join(self.cookies) + limits
                items.append((NOTIFY, told))
            self.send(MAIN_MODE, ID, self.seal(items, 0), ENCRYPTED)
        self.last = self.vectors[0]

    def renewal(self, seconds):
        """A main mode of the other side's, from its first message."""
        end = time.monotonic() + seconds
        while (message := self.next(end - time.monotonic())) is not None:
            if message[8:16] == bytes(8) and message[18] == MAIN_MODE:
                return time.monotonic()
        return None

    # Quick mode (RFC 2409 §5.5).

    def flags(self, message):
        return ENCRYPTED | (COMMIT if self.bit == message else 0)

    def quick_mode_asks(self):
        number, ni = int.from_bytes(os.urandom(4), "big") | 1, os.urandom(24)
        sa = sa_body(ESP, SPI, 12, HOUR + PHASE_2)
        items = [(SA, sa), (NONCE, ni), (ID, self.nets[0]), (ID, self.nets[1])]
        self.send(QUICK_MODE, HASH, self.seal(self.hashed(number, items), number), self.flags("first"), number)
        first, body, _ = self.receive(QUICK_MODE, number=number)
        found = self.checked(self.open(first, body, number), number, ni)
        kinds = [kind for kind, _ in found]
        expect(kinds[:4] == [SA, NONCE, ID, ID], f"payloads {kinds}")
        expect([body for kind, body in found if kind == ID] == self.nets, "the identities as they were asked for")
        theirs, nr = found[0][1][16:20], found[1][1]
        expect(found[0][1] == sa_body(ESP, theirs, 12, HOUR + PHASE_2), "the transform as it was offered")
        said = [self.lifetime(body, ESP, theirs) for kind, body in found if kind == NOTIFY]
        third = prf(self.a, b"\0", struct.pack("!I", number), ni, nr)
        self.send(QUICK_MODE, HASH, self.seal([(HASH, third)], number), self.flags("third"), number)
        return number, said[0] if said else None

    def lifetime(self, body, protocol, spi):
        """RFC 2407 §4.6.3.1, all of it."""
        found = struct.unpack("!IBBH", body[:8])
        expect(found == (1, protocol, len(spi), RESPONDER_LIFETIME), f"a notify of another kind: {body[:8].hex()}")
        expect(body[8:8 + len(spi)] == spi, "the sender's inbound SPI, or the cookies")
        limits = attributes(body[8 + len(spi):])
        return [int.from_bytes(value, "big") if isinstance(value, bytes) else value for _, value in limits]

    def quick_mode_answers(self, seconds):
        first, body, number = self.receive(QUICK_MODE, seconds)
        found = self.checked(self.open(first, body, number), number)
        expect([kind for kind, _ in found][:4] == [SA, NONCE, ID, ID], "payloads of a first message")
        sa, ni = found[0][1], found[1][1]
        names = [item for item in found if item[0] == ID]
        spi, nr = os.urandom(3) + b"\x77", os.urandom(24)
        answer = sa[:16] + spi + sa[20:]
        limits = encoded([(1, 1), (2, (8).to_bytes(4, "big")), (1, 2), (2, (500).to_bytes(4, "big"))])
        told = struct.pack("!IBBH", 1, ESP, 4, RESPONDER_LIFETIME) + spi + limits
        items = [(SA, answer), (NONCE, nr), *names, (NOTIFY, told)]
        sealed = self.seal(self.hashed(number, items, ni), number)
        self.send(QUICK_MODE, HASH, sealed, self.flags("second"), number)
        first, body, _ = self.receive(QUICK_MODE, number=number)
        found = self.open(first, body, number)
        expect(found == [(HASH, prf(self.a, b"\0", struct.pack("!I", number), ni, nr))], "HASH(3)")
        return number, spi

    def connected(self, number, spi):
        notify = struct.pack("!IBBH", 1, ESP, 4, CONNECTED) + spi
        items = [(NOTIFY, notify)]
        if self.told == "quick":
            self.send(QUICK_MODE, HASH, self.seal(self.hashed(number, items), number), ENCRYPTED | COMMIT, number)
        elif self.told == "same":
            iv = hashlib.sha256(self.last + struct.pack("!I", number)).digest()[:16]
            self.send(INFORMATIONAL, HASH, self.seal(self.hashed(number, items), number, iv), ENCRYPTED, number)
        elif self.told == "other":
            own = number ^ 2
            self.send(INFORMATIONAL, HASH, self.seal(self.hashed(own, items), own), ENCRYPTED, own)

    def quiet(self, seconds):
        """Nothing but ESP is expected for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.next(end - time.monotonic())


def main():
    role, local, remote, bit, told = sys.argv[1:]
    peer = Peer(role, local, remote, bit, told)
    print("ready", flush=True)
    peer.main_mode()
    said = renewed = None
    begun = time.monotonic()
    if peer.bit == "phase1":
        at = peer.renewal(14)
        renewed = at and at - begun
        print(json.dumps({"before": 0, "after": 0, "lifetime": None, "renewed": renewed, "waited": None}), flush=True)
        return
    if peer.asks:
        (number, said), spi = peer.quick_mode_asks(), SPI
    else:
        number, spi = peer.quick_mode_answers(10)
    peer.quiet(2)
    before = len(peer.packets)
    if bit != "none" and told != "never":
        peer.connected(number, spi)
    if bit != "none":
        peer.quiet(10 if told == "never" else 2)
    after = len(peer.packets) - before
    waited = next((at - begun for at, _ in peer.packets), None)
    if not peer.asks and bit == "none":
        peer.quick_mode_answers(12)
        renewed = time.monotonic() - begun
    print(json.dumps({"before": before, "after": after, "lifetime": said, "renewed": renewed, "waited": waited,
                      "phase1": peer.said}), flush=True)


if __name__ == "__main__":
    main()
