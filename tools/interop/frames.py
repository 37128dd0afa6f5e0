"""Frames of one's own making: `frames.py DEVICE < JSON` sends each and prints the echo replies that come, as JSON.

Input: {"frames": [hex], "count": N, "seconds": S}. A reply is {"tags": [VLAN IDs], "id": n, "sequence": n, "length": bytes of IP, "padding": hex behind it}.
The kernel takes the outermost tag off before a packet socket sees the frame and says it in PACKET_AUXDATA.
"""

import json
import socket
import struct
import sys
import time

ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA = 3, 263, 8
STATUS_VLAN_VALID = 1 << 4
PACKET_OUTGOING = 4


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ethernet(source, destination, tags, kind, payload, least=60, padding=0xEE):
    """A frame with (TPID, VLAN ID) tags, padded as a sender must."""
    frame = mac(destination) + mac(source)
    for tpid, vlan in tags:
        frame += struct.pack("!HH", tpid, vlan)
    frame += struct.pack("!H", kind) + payload
    return frame + bytes([padding]) * max(0, least - len(frame))


def echo(identifier, sequence, size, kind=8):
    text = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + bytes(range(256))[:size]
    return text[:2] + struct.pack("!H", checksum(text)) + text[4:]


def ipv4(source, destination, payload, options=b"", protocol=1, identification=0, flags=0):
    length = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | length // 4, 0, length + len(payload), identification, flags, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    ) + options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(source, destination, identifier, sequence, size, headers=()):
    """An echo request behind extension headers, each (number, octets behind the next header's number)."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    message = echo(identifier, sequence, size, kind=128)
    pseudo = addresses + struct.pack("!IHBB", len(message), 0, 0, 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message[:2] + b"\0\0" + message[4:])) + message[4:]
    body, numbers = message, [number for number, _ in headers] + [58]
    for at in range(len(headers) - 1, -1, -1):
        body = bytes([numbers[at + 1]]) + headers[at][1] + body
    return struct.pack("!IHBB", 6 << 28, len(body), numbers[0], 64) + addresses + body


def reply(frame, tags):
    kind, at = struct.unpack("!H", frame[12:14])[0], 14
    while kind in (0x8100, 0x88A8):
        tag, kind = struct.unpack("!HH", frame[at:at + 4])
        tags, at = [*tags, tag & 0xFFF], at + 4
    packet = frame[at:]
    if kind == 0x0800 and packet[9] == 1:
        length, message = struct.unpack("!H", packet[2:4])[0], packet[(packet[0] & 15) * 4:]
        wanted = 0
    elif kind == 0x86DD and packet[6] == 58:
        length, message, wanted = 40 + struct.unpack("!H", packet[4:6])[0], packet[40:], 129
    else:
        return None
    if len(message) < 8 or message[0] != wanted:
        return None
    identifier, sequence = struct.unpack("!HH", message[4:8])
    return {"tags": tags, "id": identifier, "sequence": sequence, "length": length, "padding": packet[length:].hex()}


def main():
    asked = json.load(sys.stdin)
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packets.bind((sys.argv[1], 0))
    packets.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    for frame in asked["frames"]:
        packets.send(bytes.fromhex(frame))
    seen, end = [], time.monotonic() + asked["seconds"]
    while len(seen) < asked["count"] and (left := end - time.monotonic()) > 0:
        packets.settimeout(left)
        try:
            frame, auxiliary, _, address = packets.recvmsg(65536, 256)
        except TimeoutError:
            break
        if address[2] == PACKET_OUTGOING:
            continue
        tags = []
        for level, kind, data in auxiliary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, tag = struct.unpack("IIIHHHH", data)[0], struct.unpack("IIIHHHH", data)[5]
                tags = [tag & 0xFFF] if status & STATUS_VLAN_VALID else []
        if found := reply(frame, tags):
            seen.append(found)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
