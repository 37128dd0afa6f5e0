"""A peer whose NAT gives it other ports and addresses, beside a stranger who sends what he has heard (RFC 7296 §2.23)."""

import json
import re
import socket
import struct
import subprocess
import sys
import time

from frames import checksum
from lab import Culvert, check, eventually, sh
from traffic import accounted

TESTS = {}

STRANGER = ("192.168.78.252", 33333)

SEND = """
import json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((sys.argv[1], 0))
for frame in json.load(sys.stdin):
    s.send(bytes.fromhex(frame))
"""


def both_versions(function):
    for version in (1, 2):
        def run(lab, version=version):
            function(lab, version)

        run.__doc__ = function.__doc__
        TESTS[f"{function.__name__}_ikev{version}"] = run
    return function


def conf(version, me, local, remote):
    proposals = "aes128gcm16-prfsha256-x25519" if version == 2 else "aes128-sha256-modp2048"
    return f"""
connections {{
  gw {{
    version = {version}
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {proposals}
    local {{
      auth = psk
      id = host-{me}
    }}
    remote {{
      auth = psk
      id = host-{3 - me}
    }}
    children {{
      net {{
        esp_proposals = aes128gcm16
        local_ts = 10.77.{me}.0/24
        remote_ts = 10.77.{3 - me}.0/24
        start_action = none
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = a-secret-of-two-hosts
  }}
}}
"""


def routed(lab, queues):
    """left - router - right, with addresses at the router for a NAT to change between."""
    left, router, right = (lab.host(name) for name in "LMR")
    lab.wire(left, "wan0", router, "left0", queues)
    lab.wire(router, "right0", right, "wan0", queues)
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_udp_timeout=1",
               "net.netfilter.nf_conntrack_udp_timeout_stream=1")
    for host, net, other, device, end in ((left, 77, 78, "left0", 1), (right, 78, 77, "right0", 2)):
        host.address(f"192.168.{net}.{end}/24", "wan0")
        router.address(f"192.168.{net}.254/24", device)
        host.route(f"192.168.{other}.0/24", "via", f"192.168.{net}.254")
        host.address(f"10.77.{end}.1/32")
    router.address("192.168.78.253/24", "right0")
    router.run("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }")
    return left, router, right


def translate(router, address, port):
    """The peer is at this address from now on, and its ESP at this port."""
    router.run("nft", f"flush chain ip nat post; add rule ip nat post oifname right0 udp sport 4500 snat to {address}:{port};"
               f" add rule ip nat post oifname right0 snat to {address}")


def heard(path):
    """The peer's frames to the right gateway in a capture, each once."""
    data, at, found = path.read_bytes(), 24, {}
    while at + 16 <= len(data):
        length = struct.unpack("<I", data[at + 8:at + 12])[0]
        frame, at = data[at + 16:at + 16 + length], at + 16 + length
        is_peers = frame[26:30] != socket.inet_aton(STRANGER[0])
        if is_peers and frame[30:34] == socket.inet_aton("192.168.78.2") and frame[23] == 17 and len(frame) > 80:
            found[frame[42:]] = frame
    return list(found.values())


def from_stranger(frame):
    changed = bytearray(frame)
    changed[26:30] = socket.inet_aton(STRANGER[0])
    changed[24:26] = bytes(2)
    changed[24:26] = struct.pack("!H", checksum(bytes(changed[14:34])))
    changed[34:36], changed[40:42] = struct.pack("!H", STRANGER[1]), bytes(2)
    return changed


@both_versions
def a_peer_moves_beside_a_stranger(lab, version):
    """New packets move the peer, from port to port and from address to address; old ones and forged ones from elsewhere do not."""
    left, router, right = routed(lab, queues=2)
    translate(router, "192.168.78.254", 21001)
    there = Culvert(right, conf(version, 2, "192.168.78.2", "%any"), "  workers = 2")
    ours = Culvert(left, conf(version, 1, "192.168.77.1", "192.168.78.2"), "  workers = 2")
    _, path = lab.capture(router, "right0", "udp and dst 192.168.78.2")
    net = ("10.77.1.1", "10.77.2.1")
    ours.initiate()
    left.ping(*net, count=3)

    def seen():
        said = sh("swanctl", "--list-sas", "--raw", "--uri", f"unix://{there.socket}").stdout
        return re.search(r"remote-host=(\S+)", said).group(1), int(re.search(r"remote-port=(\d+)", said).group(1))

    def dropped():
        drops = there.drops()
        return [drops.get(cause, 0) for cause in ("replayed_duplicate", "not_authentic")]

    def attack(where):
        old = [from_stranger(frame) for frame in heard(path)]
        esp = [frame for frame in old if frame[36:38] == struct.pack("!H", 4500) and frame[42:46] != bytes(4)]
        # Numbers that are new, so that the ICV is what refuses them.
        forged = [frame[:46] + (int.from_bytes(frame[46:50], "big") + 1000).to_bytes(4, "big") + frame[50:] for frame in esp]
        before = dropped()
        sender = router.command(sys.executable, "-c", SEND, "right0")
        frames = json.dumps([bytes(frame).hex() for frame in old + forged])
        subprocess.run(sender, input=frames, text=True, check=True, timeout=20)
        expected = [n + len(esp) for n in before]
        eventually(f"{expected} dropped", lambda: dropped() == expected, seconds=3)
        check(len(old) > len(esp) > 2, f"{len(old)} heard, {len(esp)} of them ESP")
        check(seen() == where, f"a stranger moved the peer from {where} to {seen()}")

    check(seen() == ("192.168.78.254", 21001), f"the peer is at {seen()}")
    attack(("192.168.78.254", 21001))
    for where in (("192.168.78.254", 21002), ("192.168.78.253", 21003)):
        translate(router, *where)
        time.sleep(1.5)  # The router forgets.
        # The answer to the packet that tells it may still go to where the peer was.
        left.ping(*net, count=1, ok=False, extra=("-W", "1"))
        eventually(f"the peer at {where}", lambda: seen() == where, seconds=3)
        left.ping(*net, count=2)
        right.ping(*net[::-1], count=2)
    attack(where)
    left.ping(*net, count=2)
    check(there.rows("main_mode.ike_main_mode", "quick_mode.active_tunnels") == [1, 1], "without another IKE SA")
    for gateway in (ours, there):
        accounted(gateway)
        check(all(w["frames_out"] == 0 for w in gateway.workers()), "frames are missing")
