"""A NAT for both sides that edits vendor IDs: natt_relay.py INNER OUTER SERVER KEPT...

What comes to INNER's ports 500 and 4500 goes on to SERVER from a port of OUTER's, and the answers back. The first message of
an IKEv1 main mode keeps only the named NAT traversal vendor IDs (rfc, 03, 02, 02n): nothing authenticates them, so that the
two sides speak what is left. Says by which payload number NAT-D goes by.
"""

import select
import socket
import sys

IDS = {
    "rfc": "4a131c8107035845 5c5728f20e95452f",
    "03": "7d9419a65310ca6f 2c179d9215529d56",
    "02": "cd60464335df21f8 7cfdb2fc68b6a448",
    "02n": "90cb80913ebb696e 086381b5ec427b1f",
}


def edited(message, kept):
    for name, octets in IDS.items():
        if name not in kept:
            message = message.replace(bytes.fromhex(octets), b"\x55" * 16)
    return message


def payloads(message):
    """Payload numbers of a clear message."""
    number, at, found = message[16], 28, []
    while number and at + 4 <= len(message):
        found.append(number)
        number, at = message[at], at + int.from_bytes(message[at + 2 : at + 4], "big")
    return found


def main():
    inner, outer, server, *kept = sys.argv[1:]
    listening, clients, back = {}, {}, {}
    for port in (500, 4500):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((inner, port))
        listening[listener] = port
    print("ready", flush=True)
    while True:
        for ready in select.select([*listening, *back], [], [])[0]:
            message, source = ready.recvfrom(65536)
            if ready in listening:
                port = listening[ready]
                if (port, source) not in clients:
                    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    out.bind((outer, 20000 + len(clients)))
                    out.connect((server, port))
                    clients[port, source], back[out] = out, (ready, source)
                if port == 500 and message[8:16] == bytes(8):
                    message = edited(message, kept)
                send = clients[port, source].send
            else:
                listener, client = back[ready]
                port = listening[listener]
                send = lambda message: listener.sendto(message, client)  # noqa: B023 - called at once
            if port == 500 and len(message) > 28 and not message[19] & 1:
                for number in (20, 130):
                    if number in payloads(message):
                        print(f"NAT-D as {number}", flush=True)
            try:
                send(message)
            except OSError:
                pass  # the server is not there yet, or no more


if __name__ == "__main__":
    main()
