"""What the peers of IKEv1 that are written apart have in common: group 14, the prf, chains of payloads."""

import hashlib
import hmac
import struct

from gss_messages import expect


def group_14():
    """RFC 3526 §3: 2^2048 - 2^1984 - 1 + 2^64 * ([2^1918 pi] + 124476), pi by Machin's formula."""
    one = 1 << 2100

    def arctan_of_inverse(n):
        total, power, k = 0, one // n, 1
        while power:
            total += power // k if k % 4 == 1 else -(power // k)
            power //= n * n
            k += 2
        return total

    pi = 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))
    return 2**2048 - 2**1984 - 1 + 2**64 * ((pi >> (2100 - 1918)) + 124476)


def prf(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def chain(*items):
    """Payloads one behind the other (RFC 2408 §3.2)."""
    kinds = [kind for kind, _ in items[1:]] + [0]
    return b"".join(struct.pack("!BBH", following, 0, 4 + len(body)) + body for following, (_, body) in zip(kinds, items))


def chain_length(first, data):
    """Octets of a chain before its padding."""
    kind, at = first, 0
    while kind:
        expect(at + 4 <= len(data), "a payload header that is cut off")
        kind, _, length = struct.unpack("!BBH", data[at:at + 4])
        expect(length >= 4, "a payload length")
        at += length
    expect(at <= len(data), "a chain within the message")
    return at
