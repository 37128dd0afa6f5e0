"""ESP and AH written from the RFCs a second time, over another crypto library (python3-cryptography): the other side of
`differential.py`. Nothing here is shared with the gateway. Cases are dictionaries in the form of `culvert kat`'s records."""

import hashlib
import hmac
import ipaddress
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.cmac import CMAC

ESP, AH, UDP, IPV4, IPV6 = 50, 51, 17, 4, 41
# name: (hash, ICV length, key length)
HMACS = {
    "HMAC_MD5": ("md5", 12, 16),
    "HMAC_SHA1": ("sha1", 12, 20),
    "HMAC_SHA2_256": ("sha256", 16, 32),
    "HMAC_SHA2_384": ("sha384", 24, 48),
    "HMAC_SHA2_512": ("sha512", 32, 64),
}
MACS = [*HMACS, "AES_CMAC", "AES_XCBC"]


def icv_len(alg):
    return HMACS[alg][1] if alg in HMACS else 16 if alg == "AES_GMAC" else 12


def mac_key_len(alg):
    return HMACS[alg][2] if alg in HMACS else 16


def block(key, data):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)


def xor(a, b):
    return bytes(x ^ y for x, y in zip(a, b))


def xcbc(key, message):
    """RFC 3566 §4, cut to 96 bits by the caller."""
    k1, k2, k3 = (block(key, bytes([n]) * 16) for n in (1, 2, 3))
    blocks = [message[i : i + 16] for i in range(0, len(message), 16)] or [b""]
    chain = bytes(16)
    for piece in blocks[:-1]:
        chain = block(k1, xor(chain, piece))
    last = blocks[-1]
    mask = k2 if len(last) == 16 else k3
    last = last if len(last) == 16 else last + b"\x80" + bytes(15 - len(last))
    return block(k1, xor(xor(chain, last), mask))


def mac(alg, key, message):
    if alg in HMACS:
        tag = hmac.new(key, message, getattr(hashlib, HMACS[alg][0])).digest()
    elif alg == "AES_CMAC":
        cmac = CMAC(algorithms.AES(key))
        cmac.update(message)
        tag = cmac.finalize()
    else:
        tag = xcbc(key, message)
    return tag[: icv_len(alg)]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def ip_header(version, source, destination, protocol, payload_len, ident=0, options=b"", ttl=64, traffic_class=0, flags=0x4000,
              flow=0):
    if version == 6:
        first = 6 << 28 | traffic_class << 20 | flow
        return struct.pack("!IHBB", first, payload_len + len(options), protocol, ttl) + packed(source) + packed(destination) + options
    length = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, traffic_class, length + payload_len, ident, flags, ttl, protocol, 0)
    head += packed(source) + packed(destination) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:]


def pseudo(source, destination, protocol, length):
    if len(packed(source)) == 4:
        return packed(source) + packed(destination) + struct.pack("!BBH", 0, protocol, length)
    return packed(source) + packed(destination) + struct.pack("!I3xB", length, protocol)


def udp(source, destination, sport, dport, payload, summed=True):
    length = 8 + len(payload)
    head = struct.pack("!HHHH", sport, dport, length, 0)
    if not summed:
        return head + payload
    value = checksum(pseudo(source, destination, UDP, length) + head + payload) or 0xFFFF
    return head[:6] + struct.pack("!H", value) + payload


def trailer(carried, align, next_header, pad_len):
    """RFC 4303 §2.4 to §2.6."""
    if pad_len is None:
        pad_len = -(carried + 2) % align
    return bytes(range(1, pad_len + 1)) + bytes([pad_len, next_header])


def esp_body(case, payload, next_header):
    """From the SPI to the ICV."""
    enc, auth = case["enc"], case["auth"]
    key, salt = bytes.fromhex(enc["key"]), bytes.fromhex(enc["salt"])
    iv, high = bytes.fromhex(case["iv"]), struct.pack("!I", case["seq"] >> 32)
    spi, low = struct.pack("!I", case["spi"]), struct.pack("!I", case["seq"] & 0xFFFFFFFF)
    align = {"AES_CBC": 16, "3DES_CBC": 8}.get(enc["alg"], 4)
    text = payload + trailer(len(payload), align, next_header, case.get("pad_len"))
    aad = spi + high + low if case["esn"] else spi + low
    name, cut = enc["alg"], auth["icv_len"]
    if name == "AES_GCM":
        sealed = AESGCM(key).encrypt(salt + iv, text, aad)
        return spi + low + iv + sealed[: len(text)] + sealed[len(text) :][:cut]
    if name == "AES_GMAC":
        return spi + low + iv + text + AESGCM(key).encrypt(salt + iv, b"", aad + iv + text)
    if name == "AES_CCM":
        return spi + low + iv + AESCCM(key, tag_length=cut).encrypt(salt + iv, text, aad)
    if name == "CHACHA20_POLY1305":
        return spi + low + iv + ChaCha20Poly1305(key).encrypt(salt + iv, text, aad)
    if name == "AES_CBC":
        text = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor().update(text)
    elif name == "3DES_CBC":
        text = Cipher(algorithms.TripleDES(key), modes.CBC(iv)).encryptor().update(text)
    elif name == "AES_CTR":
        text = Cipher(algorithms.AES(key), modes.CTR(salt + iv + b"\0\0\0\1")).encryptor().update(text)
    covered = spi + low + iv + text
    tag = mac(auth["alg"], bytes.fromhex(auth["key"]), covered + (high if case["esn"] else b""))
    return covered + tag


def transport_parts(packet):
    """(header in front of ESP or AH, its protocol, offset of the octet that names the next header, payload)."""
    if packet[0] >> 4 == 4:
        length = (packet[0] & 15) * 4
        return packet[:length], packet[9], 9, packet[length:]
    at, named, protocol = 40, 6, packet[6]
    # Hop-by-hop and routing headers are for the routers: what protects goes behind them (RFC 4303 §3.1.1). Destination
    # options stand in front only when a routing header follows.
    while protocol in (0, 43) or (protocol == 60 and packet[at] == 43):
        named, protocol, at = at, packet[at], at + (packet[at + 1] + 1) * 8
    return packet[:at], protocol, named, packet[at:]


def rename(header, named, protocol, payload_len):
    header = bytearray(header)
    header[named] = protocol
    if header[0] >> 4 == 4:
        header[2:4] = struct.pack("!H", len(header) + payload_len)
        header[10:12] = b"\0\0"
        header[10:12] = struct.pack("!H", checksum(bytes(header)))
    else:
        header[4:6] = struct.pack("!H", len(header) - 40 + payload_len)
    return bytes(header)


def encapsulate(case, source, destination, body):
    """RFC 3948 §2.1: no checksum over IPv4; IPv6 needs one (RFC 8200 §8.1)."""
    return udp(source, destination, 4500, 4500, body, summed=":" in source) if case["udp_encap"] else body


def seal_esp(case, plain, outer, tfc=0):
    """`outer` are the tunnel's end points (source, destination); they are ignored in transport mode."""
    protocol = UDP if case["udp_encap"] else ESP
    if case["mode"] == "tunnel":
        inner = IPV4 if plain[0] >> 4 == 4 else IPV6
        body = encapsulate(case, *outer, esp_body(case, plain + bytes(tfc), inner))
        version = 6 if ":" in outer[0] else 4
        return ip_header(version, *outer, protocol, len(body), ident=case["seq"] & 0xFFFF, flags=0) + body
    header, carried, named, payload = transport_parts(plain)
    source, destination = addresses(plain)
    body = encapsulate(case, source, destination, esp_body(case, payload, carried))
    return rename(header, named, protocol, len(body)) + body


def addresses(packet):
    cut = (12, 16, 20) if packet[0] >> 4 == 4 else (8, 24, 40)
    return tuple(str(ipaddress.ip_address(packet[a:b])) for a, b in zip(cut, cut[1:]))


def immutable(header):
    """The headers in front of AH as both ends compute over them (RFC 4302 §3.3.3.1, appendix A)."""
    out = bytearray(header)
    if out[0] >> 4 == 4:
        out[1] = 0
        out[6:9] = bytes(3)
        out[10:12] = bytes(2)
        at = 20
        while at < len(out) and out[at] != 0:
            length = 1 if out[at] == 1 else out[at + 1]
            if out[at] not in (1, 130, 133, 134, 148, 149):
                out[at : at + length] = bytes(length)
            at += length
        return bytes(out)
    out[0:4] = b"\x60\0\0\0"
    out[7] = 0
    at, protocol = 40, out[6]
    while at < len(out):
        end = at + (out[at + 1] + 1) * 8
        if protocol in (0, 60):
            option = at + 2
            while option < end:
                if out[option] == 0:
                    option += 1
                    continue
                length = out[option + 1]
                if out[option] & 0x20:
                    out[option + 2 : option + 2 + length] = bytes(length)
                option += 2 + length
        protocol, at = out[at], end
    return bytes(out)


def seal_ah(case, plain, outer):
    alg, size = case["auth"]["alg"], case["auth"]["icv_len"]
    iv = bytes.fromhex(case["iv"])
    if case["mode"] == "tunnel":
        version = 6 if ":" in outer[0] else 4
        inner, payload = (IPV4 if plain[0] >> 4 == 4 else IPV6), plain
    else:
        header, inner, named, payload = transport_parts(plain)
        version = plain[0] >> 4
    length = 12 + len(iv) + size
    length += -length % (8 if version == 6 else 4)
    if case["mode"] == "tunnel":
        header = ip_header(version, *outer, AH, length + len(payload), ident=case["seq"] & 0xFFFF, flags=0)
    else:
        header = rename(header, named, AH, length + len(payload))
    fixed = struct.pack("!BBHII", inner, length // 4 - 2, 0, case["spi"], case["seq"] & 0xFFFFFFFF)
    covered = immutable(header) + fixed + bytes(length - 12) + payload
    covered += struct.pack("!I", case["seq"] >> 32) if case["esn"] else b""
    key = bytes.fromhex(case["auth"]["key"])
    if alg == "AES_GMAC":
        icv = iv + AESGCM(key).encrypt(bytes.fromhex(case["auth"]["salt"]) + iv, b"", covered)
    else:
        icv = mac(alg, key, covered)
    return header + fixed + icv.ljust(length - 12, b"\0") + payload
