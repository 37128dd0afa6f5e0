"""Virtual addresses of IKEv2 road warriors (RFC 7296 §2.19), opposite strongSwan as road warrior and as gateway."""

from ikev1_modes import Ends
from lab import Charon, Culvert, check, eventually, sh
from sites import PORTS
from traffic import accounted

TESTS = {}

V4, V6 = "10.9.0.1", "fd09::1"


def both_roles(function):
    for role in ("initiator", "responder"):
        def run(lab, role=role):
            function(lab, role)

        TESTS[f"{function.__name__}_{role}"] = run
    return function


def test(function):
    TESTS[function.__name__] = function
    return function


def warrior(side, vips="0.0.0.0, ::", pools="four, six", nets="10.77.2.0/24, fd77:2::/64", **_):
    """a gets its addresses of b's pools."""
    own, other = (1, 2) if side == "a" else (2, 1)
    peer = "b" if side == "a" else "a"
    client = side == "a"
    asks = f"vips = {vips}" if vips else ""
    return f"""
connections {{
  gw {{
    version = 2
    local_addrs = 192.168.77.{own}
    remote_addrs = 192.168.77.{other}
    proposals = aes128gcm16-prfsha256-x25519
    rekey_time = 0
    {asks if client else f"pools = {pools}"}
    local {{
      auth = psk
      id = {side}.interop.test
    }}
    remote {{
      auth = psk
      id = {peer}.interop.test
    }}
    children {{
      net {{
        {"remote_ts" if client else "local_ts"} = {nets}
        esp_proposals = aes128gcm16-x25519
        rekey_time = 0
      }}
    }}
  }}
}}
pools {{
  four {{
    addrs = 10.9.0.0/24
    dns = 10.77.2.53
  }}
  six {{
    addrs = fd09::/120
  }}
  lan {{
    addrs = 10.77.2.200-10.77.2.210
  }}
}}
secrets {{
  ike-1 {{
    id-1 = a.interop.test
    id-2 = b.interop.test
    secret = interop-psk-0123456789
  }}
}}
"""


def held(host):
    return host.run("ip", "addr").stdout


@both_roles
def ikev2_virtual_addresses(lab, role):
    """One of each family: from IKE_AUTH through rekeys of both kinds, begun at either end, and reauthentication; gone at the end,
    and the same again for who comes back."""
    ends = Ends(lab, role, conf=warrior)
    a = ends.hosts["a"]
    # fd09::1 is the first that strongSwan gives of fd09::/120, and fd09::0 ours: a network has no broadcast address in IPv6.
    six = []

    def works():
        # The one before lingers for five seconds.
        eventually("the pair", lambda: ends.ours.rows("quick_mode.active_sas") == [1], seconds=9)
        eventually("the IPv4 address", lambda: f"inet {V4}/32" in held(a), seconds=3)
        found = [word.split("/")[0] for word in held(a).split() if word.startswith("fd09::")]
        check(len(found) == 1 and found[0] == (six or found)[0], f"IPv6 addresses: {found}, before {six}")
        six[:] = found
        a.ping(V4, "10.77.2.1", size=500, interval=0.05)
        a.ping(six[0], "fd77:2::1", size=500, interval=0.05)

    ends.initiate()
    works()
    if role == "initiator":
        # Packets that name no source have the virtual one, by the route.
        for net, source in (("10.77.2.1", V4), ("fd77:2::1", six[0])):
            said = a.run("ip", "route", "get", net).stdout
            check(f"src {source}" in said, f"the route to {net}: {said}")
    said = ends.peer.swanctl("--list-sas").stdout
    check(f"[{V4}" in said.split("ESTABLISHED")[1].split("net:")[0], f"strongSwan knows of no address: {said}")
    said = sas(ends.ours)
    check(V4 in said and six[0] in said, f"list-sas: {said}")
    for step in (
        lambda: ends.ours.command("rekey", "--ike", "gw"),
        lambda: ends.peer.swanctl("--rekey", "--ike", "gw"),
        lambda: ends.ours.command("rekey", "--child", "net"),
        lambda: ends.peer.swanctl("--rekey", "--child", "net"),
        # The client's, who asks anew for what it had.
        lambda: ends.ours.command("rekey", "--ike", "gw", "--reauth")
        if role == "initiator"
        else ends.peer.swanctl("--rekey", "--ike", "gw", "--reauth"),
    ):
        step()
        works()
    ends.ours.command("terminate", "--ike", "gw")
    eventually("strongSwan's SA to go", lambda: "gw:" not in ends.peer.swanctl("--list-sas").stdout)
    eventually("the addresses to go", lambda: V4 not in held(a) and "fd09::" not in held(a), seconds=3)
    if role == "initiator":
        check("10.77.2.0/24" not in a.run("ip", "route", "show", "table", "220").stdout.replace("throw", "")
              or f"src {V4}" not in a.run("ip", "route", "show", "table", "220").stdout, "the source route stays")
    ends.initiate()
    works()
    accounted(ends.ours)


def sas(ours):
    return sh("swanctl", "--list-sas", "--uri", f"unix://{ours.socket}").stdout


@both_roles
def ikev2_no_virtual_address(lab, role):
    """None is free, and none is asked for where everybody has one: the IKE SA stays, the child is not made, and both know why."""
    for vips, pools, notify in (("0.0.0.0", "six", "INTERNAL_ADDRESS_FAILURE"), ("", "four", "FAILED_CP_REQUIRED")):
        if not lab.hosts:
            ends = Ends(lab, role, conf=warrior, vips=vips, pools=pools)
        else:
            side = {"initiator": "ab", "responder": "ba"}[role]
            ends.ours.write(warrior(side[0], vips=vips, pools=pools))
            ends.ours.command("reload")
            ends.peer.conf(warrior(side[1], vips=vips, pools=pools))
            ends.peer.swanctl("--load-all")
        ends.initiate(ok=False)
        said = ends.peer.text()
        verb = "received" if role == "responder" else "sending"
        check(f"{verb} {notify}" in said, f"strongSwan did not say {verb} {notify}: {said[-600:]}")
        own = ends.ours.log.read_text(errors="replace")
        expected = "the peer gives no virtual address" if role == "initiator" else (
            "no address of a pool is free" if vips else "the peer asks for no virtual address")
        check(expected in own, f"not said here: {expected}")
        check(ends.ours.rows("quick_mode.active_sas") == [0], "a pair is there")
        ends.ours.command("terminate", "--ike", "gw")
        eventually("strongSwan's SA to go", lambda: "gw:" not in ends.peer.swanctl("--list-sas").stdout)


@test
def ikev2_virtual_address_of_the_lan(lab):
    """A pool inside the LAN's prefix: the gateway answers for the road warrior there, for as long as it is connected."""
    _, left, right, server = lab.chain()
    right.run("sysctl", "-qw", "net.ipv4.conf.all.forwarding=1")
    options = {"vips": "0.0.0.0", "pools": "lan", "nets": "10.77.2.0/24"}
    ours = Culvert(right, warrior("b", **options), PORTS.format(workers=1))
    peer = Charon(left, warrior("a", **options))
    up = lambda: peer.swanctl("--initiate", "--child", "net", "--timeout", 10)
    up()
    neighbours = lambda: right.run("ip", "neigh", "show", "proxy").stdout
    for _ in range(2):
        eventually("the proxied address", lambda: "10.77.2.200 dev lan0" in neighbours(), seconds=3)
        server.run("ip", "neigh", "flush", "dev", "eth0")
        server.ping("10.77.2.10", "10.77.2.200")
        left.ping("10.77.2.200", "10.77.2.10")
        ours.command("terminate", "--ike", "gw")
        eventually("nobody to be proxied", lambda: not neighbours().strip(), seconds=3)
        eventually("strongSwan's SA to go", lambda: "gw:" not in peer.swanctl("--list-sas").stdout)
        up()
    accounted(ours)
