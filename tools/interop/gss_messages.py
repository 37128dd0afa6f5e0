#!/usr/bin/env python3
"""The messages of main mode by GSS-API, byte by byte against draft-ietf-ipsec-isakmp-gss-auth-07, RFC 2408 and RFC 2409.

Written from those texts alone, apart from Culvert's own parser: every octet of the clear messages is either expected or
an error. `check_capture(pcap, names)` looks at all main modes in a capture; run as a program it takes a pcap and prints
what it found.
"""

import struct
import sys

# RFC 2408 §3.1, RFC 2409 appendix A, draft §3.3.
SA, KE, ID, HASH, NONCE, VID, NAT_D, GSS_TOKEN = 1, 4, 5, 8, 10, 13, 20, 129
MAIN_MODE, ENCRYPTED = 2, 1
KERBEROS = 65001
GSS_IDENTITY_NAME = 16384
VENDOR_DRAFT = bytes.fromhex("b46d8914f3aaa3f2fedeb7c7db2943ca")
VENDOR_WINDOWS = bytes.fromhex("621b04bb09882ac1e15935fefa24aeee")
MODP_2048 = 256
KRB5_MECHANISM = bytes.fromhex("06092a864886f712010202")
AP_REQ, AP_REP = b"\x01\x00", b"\x02\x00"


class Wrong(Exception):
    """An octet that is not what the draft says."""


def expect(condition, text):
    if not condition:
        raise Wrong(text)


def udp_datagrams(path):
    """(source, source port, destination, destination port, payload) of a pcap of Ethernet frames with IPv4."""
    data = open(path, "rb").read()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\x3c\x4d": ">"}[data[:4]]
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8:at + 12])[0]
        frame, at = data[at + 16:at + 16 + length], at + 16 + length
        if frame[12:14] != b"\x08\x00" or frame[23] != 17:
            continue
        ip = frame[14:]
        header = 4 * (ip[0] & 15)
        expect(struct.unpack("!H", ip[6:8])[0] & 0x3FFF == 0, "a fragment of IP: raise the MTU for this check")
        source, destination = (".".join(map(str, ip[n:n + 4])) for n in (12, 16))
        ports = struct.unpack("!HH", ip[header:header + 4])
        size = struct.unpack("!H", ip[header + 4:header + 6])[0]
        yield source, ports[0], destination, ports[1], ip[header + 8:header + size]


def payloads(first, data):
    """(type, body) of a chain that ends exactly with the data (RFC 2408 §3.2)."""
    found, kind = [], first
    while kind:
        expect(len(data) >= 4, "a payload header that is cut off")
        following, reserved, length = struct.unpack("!BBH", data[:4])
        expect(reserved == 0, "RESERVED is zero")
        expect(4 <= length <= len(data), "a payload length within the message")
        found.append((kind, data[4:length]))
        kind, data = following, data[length:]
    expect(not data, f"{len(data)} octets behind the last payload")
    return found


def transforms(body):
    """The attributes of each transform of an SA payload with one proposal (RFC 2408 §3.4 to §3.6, RFC 2407 §4.6.1)."""
    expect(body[:8] == struct.pack("!II", 1, 1), "DOI IPsec, SIT_IDENTITY_ONLY")
    following, reserved, length, number, protocol, spi, count = struct.unpack("!BBHBBBB", body[8:16])
    expect((following, reserved, number, protocol, spi) == (0, 0, 1, 1, 0), "one ISAKMP proposal without an SPI")
    expect(length == len(body) - 8, "the proposal's length")
    found, rest = [], body[16:]
    for n in range(count):
        following, reserved, length, number, identifier, reserved2 = struct.unpack("!BBHBBH", rest[:8])
        expect(following == (3 if n + 1 < count else 0), "3 before another transform, 0 behind the last")
        expect((reserved, reserved2, identifier) == (0, 0, 1), "RESERVED, RESERVED2, KEY_IKE")
        found.append((number, attributes(rest[8:length])))
        rest = rest[length:]
    expect(not rest, "nothing behind the transforms")
    return found


def attributes(data):
    """RFC 2408 §3.3: TV with the highest bit, TLV without."""
    found = []
    while data:
        kind, word = struct.unpack("!HH", data[:4])
        if kind & 0x8000:
            found.append((kind & 0x7FFF, word))
            data = data[4:]
        else:
            expect(len(data) >= 4 + word, "an attribute's length")
            found.append((kind, data[4:4 + word]))
            data = data[4 + word:]
    return found


def check_suite(found, name):
    """One transform: the method, and the name in UTF-16LE without an end mark (draft §3, §3.3.1, §3.3.2)."""
    kinds = [kind for kind, _ in found]
    expect(len(set(kinds)) == len(kinds), "no attribute twice")
    values = dict(found)
    expect(values[3] == KERBEROS, f"authentication method {values[3]}")
    expect((values[1], values[14], values[2], values[4]) == (7, 128, 4, 14), "AES-CBC, 128 bits, SHA2-256, group 14")
    expect(values.get(GSS_IDENTITY_NAME) == name.encode("utf-16-le"), f"GSS identity name {values.get(GSS_IDENTITY_NAME)}")
    return {kind: value for kind, value in values.items() if kind != GSS_IDENTITY_NAME}


def check_token(body, kind):
    """Vendor octet, then the token: [APPLICATION 0], its DER length, Kerberos' OID, token ID (draft §3.3.3, RFC 4121 §4.1)."""
    expect(body[0] == 0, "the vendor octet")
    token = body[1:]
    expect(token[0] == 0x60, "an initial context token of GSS-API")
    length, start = token[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(token[2:start], "big")
    expect(length == len(token) - start, "the token's length")
    expect(token[start:start + 11] == KRB5_MECHANISM, "Kerberos")
    expect(token[start + 11:start + 13] == kind, "AP-REQ from the initiator, AP-REP from the responder")
    return token


def check_main_mode(messages, names):
    """Six messages in turns: (sender is the initiator, port of the sender, message)."""
    initiator, responder = names
    expect(len(messages) == 6, f"{len(messages)} messages, not six")
    expect([sender for sender, *_ in messages] == [True, False] * 3, "in turns")
    cookies, suites = None, None
    for number, (_, port, message) in enumerate(messages, 1):
        first, version, exchange, flags = message[16:20]
        identifier, length = struct.unpack("!II", message[20:28])
        expect((version, exchange, identifier, length) == (0x10, MAIN_MODE, 0, len(message)), f"header of message {number}")
        expect(flags == (ENCRYPTED if number > 4 else 0), f"flags of message {number}")
        expect(port == 500, "no NAT, no other port")
        if number == 1:
            expect(message[8:16] == bytes(8) != message[:8], "one cookie in the first message")
        elif number == 2:
            cookies = message[:16]
            expect(cookies[:8] == messages[0][2][:8] and cookies[8:] != bytes(8), "both cookies from then on")
        else:
            expect(message[:16] == cookies, "the same cookies")
        if number > 4:
            # IDii and HASH_I, the latter a token of GSS_Wrap around 32 octets: at least 60 (RFC 4121 §4.2.6.2).
            cipher = len(message) - 28
            expect(first == ID and cipher % 16 == 0 and cipher >= 8 + 4 + 60, f"message {number}: {cipher} octets of ciphertext")
            continue
        chain = payloads(first, message[28:])
        if number <= 2:
            expect(chain[0][0] == SA, "SA before all others (RFC 2409 §5)")
            expect({kind for kind, _ in chain[1:]} == {VID}, "beside it vendor IDs only")
            vendors = [body for _, body in chain[1:]]
            expect({VENDOR_DRAFT, VENDOR_WINDOWS} <= set(vendors), "the vendor IDs of draft §3.4")
            offered = transforms(chain[0][1])
            name = initiator if number == 1 else responder
            found = [(n, check_suite(values, name)) for n, values in offered]
            if number == 1:
                suites = dict(found)
            else:
                expect(len(found) == 1 and suites[found[0][0]] == found[0][1], "one transform of the offer, as it was offered")
        else:
            kinds = [kind for kind, _ in chain]
            expect(sorted(kinds) == sorted([KE, NONCE, NAT_D, NAT_D, GSS_TOKEN]), f"message {number}: payloads {kinds}")
            bodies = dict(chain)
            expect(len(bodies[KE]) == MODP_2048 and bodies[KE] > bytes(MODP_2048), "a value of group 14")
            expect(8 <= len(bodies[NONCE]) <= 256, "8 to 256 octets of nonce (RFC 2409 §5)")
            check_token(bodies[GSS_TOKEN], AP_REQ if number == 3 else AP_REP)


def main_modes(path):
    """The messages of each main mode in a capture, by the initiator's cookie, repeats taken out."""
    found = {}
    for source, port, destination, to, data in udp_datagrams(path):
        if 500 not in (port, to) or len(data) < 28 or data[18] != MAIN_MODE:
            continue
        modes = found.setdefault(data[:8], ((source, destination), []))
        ends, messages = modes
        entry = (source == ends[0], port, data)
        if entry not in messages:
            messages.append(entry)
    return list(found.values())


def check_capture(path, names):
    """All main modes of a capture; `names` says who initiates and answers, by their addresses."""
    modes = main_modes(path)
    expect(len(modes) == len(names), f"{len(modes)} main modes")
    for ends, messages in modes:
        check_main_mode(messages, names[ends])
    octets = sum(len(message) for _, messages in modes for _, _, message in messages)
    return f"{len(modes)} main modes of six messages, {octets} octets, as the draft says"


if __name__ == "__main__":
    for ends, messages in main_modes(sys.argv[1]):
        print(ends, [len(message) for _, _, message in messages])
