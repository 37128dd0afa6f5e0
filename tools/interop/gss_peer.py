#!/usr/bin/python3
"""An initiator of main mode by GSS-API, written from draft-ietf-ipsec-isakmp-gss-auth-07 and RFC 2409 alone, over the system's GSS-API.

  gss_peer.py LOCAL REMOTE OUR-PRINCIPAL THEIR-PRINCIPAL [FAULT]

It makes one ISAKMP SA and ends without a word. HASH_R must be exactly what the draft says, or it fails; FAULT leaves the name (`name`)
or the token (`token`) out of HASH_I, which the responder must not take. Needs python3-gssapi and python3-cryptography.
"""

import hashlib
import os
import socket
import struct
import sys

import gssapi
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from gss_messages import (
    GSS_IDENTITY_NAME, GSS_TOKEN, HASH, ID, KE, KERBEROS, NONCE, SA, VENDOR_DRAFT, VENDOR_WINDOWS, VID, check_suite, check_token,
    expect, payloads, transforms,
)
from isakmp import chain, chain_length, group_14, prf

USER_FQDN = 3
FLAGS = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity | gssapi.RequirementFlag.confidentiality


def sa_body(name):
    """One proposal with one transform (RFC 2407 §4.6.1, RFC 2408 §3.5, §3.6)."""
    basic = [(1, 7), (14, 128), (2, 4), (4, 14), (3, KERBEROS), (11, 1), (12, 3600)]
    attributes = b"".join(struct.pack("!HH", 0x8000 | kind, value) for kind, value in basic)
    attributes += struct.pack("!HH", GSS_IDENTITY_NAME, len(name)) + name
    transform = struct.pack("!BBHBBH", 0, 0, 8 + len(attributes), 1, 1, 0) + attributes
    return struct.pack("!II", 1, 1) + struct.pack("!BBHBBBB", 0, 0, 8 + len(transform), 1, 1, 0, 1) + transform


class Exchange:
    def __init__(self, local, remote):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((local, 500))
        self.socket.connect((remote, 500))
        self.socket.settimeout(5)
        self.cookies = [os.urandom(8), bytes(8)]

    def send(self, first, body, encrypted=False):
        header = b"".join(self.cookies) + struct.pack("!BBBBII", first, 0x10, 2, int(encrypted), 0, 28 + len(body))
        self.socket.send(header + body)

    def receive(self, encrypted=False):
        message = self.socket.recv(65535)
        expect(message[:8] == self.cookies[0], "our cookie")
        version, exchange, flags = message[17:20]
        expect((version, exchange) == (0x10, 2), f"not main mode but exchange {exchange}")
        expect(flags == int(encrypted), f"flags {flags}")
        expect(struct.unpack("!II", message[20:28]) == (0, len(message)), "message ID and length")
        if self.cookies[1] == bytes(8):
            self.cookies[1] = message[8:16]
        expect(message[8:16] == self.cookies[1] != bytes(8), "their cookie")
        return message[16], message[28:]


def main():
    local, remote, own, peer = sys.argv[1:5]
    fault = sys.argv[5] if len(sys.argv) > 5 else None
    exchange = Exchange(local, remote)
    name_i = own.encode("utf-16-le")
    sa_i = sa_body(name_i)
    exchange.send(SA, chain((SA, sa_i), (VID, VENDOR_DRAFT)))
    answer = payloads(*exchange.receive())
    expect(answer[0][0] == SA, "SA first")
    expect({VENDOR_DRAFT, VENDOR_WINDOWS} <= {body for kind, body in answer[1:] if kind == VID}, "vendor IDs")
    chosen = transforms(answer[0][1])
    expect(len(chosen) == 1, "one transform")
    check_suite(chosen[0][1], peer)
    name_r = dict(chosen[0][1])[GSS_IDENTITY_NAME]

    principal = gssapi.NameType.kerberos_principal
    credentials = gssapi.Credentials(name=gssapi.Name(own, principal), usage="initiate")
    context = gssapi.SecurityContext(
        name=gssapi.Name(peer, principal), creds=credentials, usage="initiate", mech=gssapi.MechType.kerberos, flags=FLAGS
    )
    token_i = context.step()
    p = group_14()
    x = int.from_bytes(os.urandom(64), "big")
    public_i, ni = pow(2, x, p).to_bytes(256, "big"), os.urandom(24)
    exchange.send(KE, chain((KE, public_i), (NONCE, ni), (GSS_TOKEN, b"\0" + token_i)))
    bodies = dict(payloads(*exchange.receive()))
    expect(set(bodies) == {KE, NONCE, GSS_TOKEN}, f"payloads {sorted(bodies)}")
    public_r, nr = bodies[KE], bodies[NONCE]
    token_r = check_token(bodies[GSS_TOKEN], b"\x02\x00")
    expect(context.step(token_r) is None and context.complete, "a context that is complete after two tokens")

    # Draft §3.1, RFC 2409 §5 and appendix B.
    secret = pow(int.from_bytes(public_r, "big"), x, p).to_bytes(256, "big")
    both = b"".join(exchange.cookies)
    skeyid = prf(ni + nr, secret)
    skeyid_d = prf(skeyid, secret, both, b"\0")
    skeyid_a = prf(skeyid, skeyid_d, secret, both, b"\1")
    skeyid_e = prf(skeyid, skeyid_a, secret, both, b"\2")
    key, iv = skeyid_e[:16], hashlib.sha256(public_i + public_r).digest()[:16]

    id_i = struct.pack("!BBH", USER_FQDN, 0, 0) + own.encode()
    covered = [public_i, public_r, *exchange.cookies, sa_i, id_i]
    covered += [] if fault == "name" else [name_i]
    covered += [] if fault == "token" else [token_i]
    hash_i = context.wrap(prf(skeyid, *covered), True)
    expect(hash_i.encrypted, "GSS_Wrap with confidentiality")
    plain = chain((ID, id_i), (HASH, hash_i.message))
    plain += bytes(-len(plain) % 16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(plain) + encryptor.finalize()
    exchange.send(ID, sealed, encrypted=True)

    first, sealed_r = exchange.receive(encrypted=True)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(sealed[-16:])).decryptor()
    plain = decryptor.update(sealed_r) + decryptor.finalize()
    end = chain_length(first, plain)
    expect(len(plain) - end < 16 and not any(plain[end:]), "padding of zeros, less than a block")
    found = payloads(first, plain[:end])
    expect([kind for kind, _ in found] == [ID, HASH], f"ID and HASH, not {[kind for kind, _ in found]}")
    id_r, wrapped = (body for _, body in found)
    expect(id_r == struct.pack("!BBH", USER_FQDN, 0, 0) + peer.encode(), "the peer's principal in its ID payload")
    unwrapped = context.unwrap(wrapped)
    expect(unwrapped.encrypted, "GSS_Wrap with confidentiality")
    hash_r = prf(skeyid, public_r, public_i, exchange.cookies[1], exchange.cookies[0], sa_i, id_r, name_r, token_r)
    expect(unwrapped.message == hash_r, "HASH_R is not what the draft says")
    print(f"HASH_I taken, HASH_R as the draft says ({len(wrapped)} octets around {len(hash_r)})")


if __name__ == "__main__":
    main()
