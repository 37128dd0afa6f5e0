"""Policies and what SAs live for: lifetimes by volume, keywords, soft SAs, acquires, route-based tunnels."""

import re
import signal

from lab import Charon, Culvert, check, eventually, scenario, sh
from sites import PORTS, site
from traffic import accounted, moved_exactly

TESTS = {}


def test(function):
    TESTS[function.__name__] = function
    return function


# --- lifetimes ---------------------------------------------------------------------------------------------------


def living(lab, lifetime, peer_lifetime="rekey_time = 0"):
    """Culvert as A, strongSwan as B, and what A's child lives for."""
    a, b = lab.pair()
    conf = {side: scenario("ikev2-psk", side) for side in "ab"}
    for side, text in (("a", lifetime), ("b", peer_lifetime)):
        child, found = "start_action = none\n        rekey_time = 0", conf[side]
        check(child in found, "the scenario's child is not as it was")
        conf[side] = found.replace(child, f"start_action = none\n{text}", 1)
    peer, ours = Charon(b, conf["b"]), Culvert(a, conf["a"])
    ours.initiate()
    return ours, peer, a, ("10.77.1.1", "10.77.2.1")


@test
def rekeyed_by_packets(lab):
    """An SA asks for its successor after 30 to 50 packets, and no packet is lost by it."""
    ours, _, here, net = living(lab, """
        rekey_time = 0
        rekey_packets = 50
        rand_packets = 20
        life_packets = 100""")
    here.ping(*net, count=400, interval=0.01)
    rekeys, active = ours.rows("quick_mode.rekeys", "quick_mode.active_sas")
    check(7 <= rekeys <= 14, f"{rekeys} rekeys for 400 packets each way")
    print(f"    {rekeys} rekeys for 400 packets each way, none lost")
    accounted(ours)


@test
def rekeyed_by_bytes(lab):
    """The same by bytes: 84 a packet."""
    ours, _, here, net = living(lab, """
        rekey_time = 0
        rekey_bytes = 4k
        rand_bytes = 1k
        life_bytes = 9k""")
    here.ping(*net, count=400, interval=0.01)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(7 <= rekeys <= 11, f"{rekeys} rekeys for 400 packets of 84 bytes each way")
    print(f"    {rekeys} rekeys for 400 packets of 84 bytes each way, none lost")
    accounted(ours)


def ends_exactly(lab, lifetime, packets):
    ours, peer, here, net = living(lab, lifetime)
    names = ("quick_mode.tunnel_bytes_sent", "quick_mode.tunnel_bytes_received")
    before = ours.rows(*names)
    answered = here.ping(*net, count=packets + 10, interval=0.05, ok=False)
    check(answered == packets, f"{answered} answers, not {packets}")
    moved_exactly(ours, names, before, [84 * packets] * 2, f"{packets} packets of 84 bytes")
    check(ours.rows("quick_mode.active_sas", "quick_mode.key_deletions") == [0, 1], "the SA is gone")
    eventually("the peer's SA to go", lambda: "net" not in peer.swanctl("--list-sas").stdout)
    accounted(ours)


@test
def ended_by_packets(lab):
    """A hard limit without a soft one: 25 packets and not one more, then the SA is deleted at both ends."""
    ends_exactly(lab, """
        rekey_time = 0
        life_packets = 25""", 25)


@test
def ended_by_bytes(lab):
    """11 packets of 84 bytes are 924; the twelfth would pass 1000 and is refused."""
    ends_exactly(lab, """
        rekey_time = 0
        life_bytes = 1000""", 11)


@test
def lifetimes_by_time(lab):
    """Rekeyed each 2 to 3 seconds; and where the soft time is never, deleted when the hard one is over."""
    ours, _, here, net = living(lab, """
        rekey_time = 3s
        rand_time = 1s
        life_time = 6s""")
    here.ping(*net, count=160, interval=0.05)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(2 <= rekeys <= 4, f"{rekeys} rekeys in 8 s")
    accounted(ours)


@test
def rekeyed_by_the_peers_packets(lab):
    """The other way round: strongSwan's SAs ask after 50 packets."""
    ours, _, here, net = living(lab, "rekey_time = 0", """
        rekey_time = 0
        rekey_packets = 50
        rand_packets = 20
        life_packets = 100""")
    here.ping(*net, count=200, interval=0.02)
    rekeys, = ours.rows("quick_mode.rekeys")
    check(3 <= rekeys <= 7, f"{rekeys} rekeys for 200 packets each way")
    accounted(ours)


# --- soft SAs ----------------------------------------------------------------------------------------------------


FILTER = """
  filters {{
    net {{
      connection = gw
      child = net
      {}
    }}
{}
  }}
"""

UNPROTECTED = """unprotected = when_silent
      unprotected_after = 1s
      unprotected_for = 4s"""


def to_the_peers_network(lab):
    """The clear way there and back, which a soft SA's packets take."""
    a, b = lab.hosts["A"], lab.hosts["B"]
    a.route("10.77.2.0/24", "via", "192.168.77.2", "dev", "wan0")
    b.route("10.77.1.0/24", "via", "192.168.77.1", "dev", "wan0")


@test
def soft_sa(lab):
    """A peer without IKE: what waits goes in clear after a second, and is protected again when the peer speaks IKE."""
    a, b = lab.pair()
    to_the_peers_network(lab)
    net = ("10.77.1.1", "10.77.2.1")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    ours = Culvert(a, conf, FILTER.format(UNPROTECTED, ""))
    check("read and forge" in ours.log.read_text(), "no warning of what is given away")
    rows = ("main_mode.soft_associations", "main_mode.total_acquire", "main_mode.acquire_failures", "quick_mode.active_sas",
            "quick_mode.key_additions")
    answered = a.ping(*net, count=15, interval=0.2, ok=False, extra=("-W", 5))
    check(answered == 15, f"{answered} of 15: the first ones wait, then all go in clear; {ours.drops()}")
    check(ours.rows(*rows) == [1, 1, 0, 1, 0], f"{dict(zip(rows, ours.rows(*rows)))}")
    check("UNPROTECTED" in ours.log.read_text(), "the log does not say it")
    listed = [sh("swanctl", *what, "--uri", f"unix://{ours.socket}").stdout for what in (["--list-sas"], ["--list-pols"])]
    check("net: #0, reqid 0, UNPROTECTED, PASS" in listed[0] and "gw/net, PASS" in listed[1], f"not marked: {listed}")
    # The soft SA ends, and with it the permission: the next packet asks again.
    eventually("the soft SA to end", lambda: ours.rows("quick_mode.active_sas") == [0])
    before = ours.rows("quick_mode.key_additions")
    peer = Charon(b, scenario("ikev2-psk", "b"))
    b.run("ip", "route", "del", "10.77.1.0/24", "via", "192.168.77.1", "dev", "wan0")
    a.ping(*net, count=5)
    found = ours.rows("main_mode.soft_associations", "quick_mode.active_sas", "quick_mode.key_additions")
    check(found == [1, 1, before[0] + 1], f"with IKE the tunnel comes up: {found}")
    check("net" in peer.swanctl("--list-sas").stdout, "strongSwan has no SA")
    accounted(ours)


@test
def no_soft_sa(lab):
    """Without permission nothing goes in clear, and neither does it when the peer speaks IKE and refuses."""
    a, b = lab.pair()
    to_the_peers_network(lab)
    net = ("10.77.1.1", "10.77.2.1")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    ours = Culvert(a, conf)
    check(a.ping(*net, count=3, ok=False) == 0, "answered in clear")
    ours.stop()
    Charon(b, scenario("ikev2-psk", "b"))
    ours = Culvert(a, conf.replace("interop-psk-0123456789", "another"), FILTER.format(UNPROTECTED, ""))
    check(a.ping(*net, count=10, ok=False) == 0, "answered in clear by a peer that refused")
    found = ours.rows("main_mode.soft_associations", "main_mode.authentication_failures")
    check(found[0] == 0 and found[1] >= 1, f"{found}")
    accounted(ours)


# --- keywords ----------------------------------------------------------------------------------------------------


@test
def keywords_follow_the_host(lab):
    """`%my_ip` and `%dns` become addresses, and others when the host's change; charon at the other end has wide selectors."""
    a, b = lab.pair()
    resolv = lab.dir / "resolv.conf"
    resolv.write_text("nameserver 10.77.2.1\n")
    b.address("10.77.2.53/32")
    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    filters = FILTER.format("local_ts = %my_ip\n      remote_ts = %dns", f"    resolv_conf = {resolv}")
    peer, ours = Charon(b, scenario("ikev2-psk", "b")), Culvert(a, conf, filters)
    a.ping("10.77.1.1", "10.77.2.1")
    check("10.77.2.1/32" in peer.swanctl("--list-sas").stdout, peer.swanctl("--list-sas").stdout)
    # Another server; the old address has no policy any more, the new one has.
    resolv.write_text("nameserver 10.77.2.53\n")
    eventually("the keyword to be followed", lambda: "other addresses now" in ours.log.read_text(), seconds=5)
    a.ping("10.77.1.1", "10.77.2.53")
    check("10.77.2.53/32" in peer.swanctl("--list-sas").stdout, "no SA for the new server")
    # Another address of our own.
    said = ours.log.read_text().count("other addresses now")
    a.address("10.77.1.99/32")
    eventually("the new address", lambda: ours.log.read_text().count("other addresses now") > said, seconds=5)
    a.ping("10.77.1.99", "10.77.2.53")
    accounted(ours)


@test
def servers_and_gateways_followed(lab):
    """`%dhcp`, `%wins` and `%gateway`: leases as dhclient and networkd write them, and default routes, changed while the gateway runs;
    what they stand for is protected at once, what they stood for is not any more."""
    a, b = lab.pair()
    b.address("10.77.2.53/32")
    leases = lab.dir / "leases"
    leases.mkdir()
    option = {"%dhcp": "dhcp-server-identifier", "%wins": "netbios-name-servers"}

    def lease(name, server):
        old = f"lease {{\n  option {name} 10.77.2.99;\n}}\n"
        return f"{old}lease {{\n  interface \"wan0\";\n  option {name} {server};\n}}\n"

    def is_now(keyword, server, networkd=False):
        if keyword == "%gateway":
            a.run("ip", "route", "replace", "default", "via", server, "dev", "wan0", "onlink")
        elif networkd:
            (leases / "dhclient.leases").unlink()
            (leases / "2").write_text(f"# private\nADDRESS=192.168.77.1\nSERVER_ADDRESS={server}\n")
        else:
            (leases / "dhclient.leases").write_text(lease(option[keyword], server))

    def led():
        """Where the host is led to the tunnel."""
        return {line.split()[0] for line in a.run("ip", "route", "show", "table", "220").stdout.splitlines()}

    conf = scenario("ikev2-psk", "a").replace("start_action = none", "start_action = trap")
    peer, ours = Charon(b, scenario("ikev2-psk", "b")), None
    for keyword in ("%dhcp", "%wins", "%gateway"):
        is_now(keyword, "10.77.2.1")
        filters = FILTER.format(f"remote_ts = {keyword}", f"    leases = {leases}")
        ours = Culvert(a, conf, filters)
        for number, server in enumerate(("10.77.2.1", "10.77.2.53", "10.77.2.1")):
            is_now(keyword, server, networkd=keyword == "%dhcp" and number == 2)
            eventually(f"{keyword} to be {server} alone", lambda: led() == {server}, seconds=4)
            a.ping("10.77.1.1", server, count=2, interval=0.05)
            check(f"{server}/32" in peer.swanctl("--list-sas").stdout, f"{keyword}: no SA for {server}")
            # An SA stays for what it was made for; this way the next one is for the next server alone.
            ours.command("terminate", "--ike", "gw")
        accounted(ours)
        ours.stop()
        for file in leases.iterdir():
            file.unlink()
    # Without one there is nothing to protect.
    check(not led(), f"left behind: {led()}")


# --- SPD ---------------------------------------------------------------------------------------------------------


@test
def icmp_selectors(lab):
    """`icmp/8`, as charon writes it: echo requests go out protected, and nothing else is covered by that child."""
    a, b = lab.pair()
    confs = {side: scenario("ikev2-psk", side) for side in "ab"}
    for side, (local, remote) in (("a", (1, 2)), ("b", (2, 1))):
        for n, key in ((local, "local_ts"), (remote, "remote_ts")):
            old = f"{key} = 10.77.{n}.0/24\n"
            check(old in confs[side], "the scenario's selectors are not as they were")
            confs[side] = confs[side].replace(old, f"{key} = 10.77.{n}.0/24[icmp/8], 10.77.{n}.0/24[icmp/0]\n")
    peer, ours = Charon(b, confs["b"]), Culvert(a, confs["a"])
    ours.initiate()
    said = peer.swanctl("--list-sas").stdout
    check("[icmp/8]" in said and "[icmp/0]" in said, f"narrowed otherwise: {said}")
    a.ping("10.77.1.1", "10.77.2.1")
    check(ours.rows("quick_mode.tunnel_bytes_sent", "quick_mode.tunnel_bytes_received") == [252, 252], "three pings of 84 bytes")
    accounted(ours)


@test
def opaque_selectors(lab):
    """`[udp/opaque]` opposite charon, begun by either: RFC 7296 §3.13.1 as both write and read it."""
    a, b = lab.pair()
    confs = {side: scenario("ikev2-psk", side) for side in "ab"}
    for side, (local, remote) in (("a", (1, 2)), ("b", (2, 1))):
        for n, key in ((local, "local_ts"), (remote, "remote_ts")):
            old = f"{key} = 10.77.{n}.0/24\n"
            check(old in confs[side], "the scenario's selectors are not as they were")
            confs[side] = confs[side].replace(old, f"{key} = 10.77.{n}.0/24[udp/opaque]\n")
    for ours_begins in (True, False):
        peer, ours = Charon(b, confs["b"]), Culvert(a, confs["a"])
        if ours_begins:
            ours.initiate()
        else:
            peer.swanctl("--initiate", "--child", "net")
        for said in (peer.swanctl("--list-sas").stdout, sh("swanctl", "--list-sas", "--uri", f"unix://{ours.socket}").stdout):
            check("10.77.1.0/24[udp/opaque]" in said.lower() and "10.77.2.0/24[udp/opaque]" in said.lower(), f"narrowed otherwise: {said}")
        ours.stop()
        peer.stop()


# --- a neighbour among hosts -------------------------------------------------------------------------------------


def tunnels(n, everything="0.0.0.0/0", action="none"):
    """Two connections to the other gateway, over IPv4 and over IPv6, with a child for everything each."""
    other = 3 - n
    def connection(name, local, remote, if_id):
        return f"""
  {name} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = aes128gcm16-prfsha256-x25519
    local {{
      auth = psk
      id = {name}-{n}
    }}
    remote {{
      auth = psk
      id = {name}-{other}
    }}
    children {{
      {name}-all {{
        local_ts = {everything}
        remote_ts = {everything}
        esp_proposals = aes128gcm16-x25519
        start_action = {action}
        if_id_in = {if_id}
        if_id_out = {if_id}
      }}
    }}
  }}"""
    return f"""
connections {{{connection("four", f"192.168.77.{n}", f"192.168.77.{other}", 4)}{connection("six", f"fd77::{n}", f"fd77::{other}", 6)}
}}
secrets {{
  ike-1 {{
    secret = a-secret-of-the-two-sites
  }}
}}
"""


def bird(lab, host, n):
    """A BGP session through each tunnel; the first is preferred."""
    directory = lab.dir / f"bird-{host.name}"
    directory.mkdir()
    def session(if_id, preference):
        return f"""
protocol bgp tunnel{if_id} {{
  local 10.255.{if_id}.{n} as {65000 + n};
  neighbor 10.255.{if_id}.{3 - n} as {65000 + 3 - n};
  direct;
  hold time 3;
  keepalive time 1;
  connect retry time 1;
  connect delay time 1;
  error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; preference {preference}; next hop self; }};
}}"""
    (directory / "bird.conf").write_text(f"""
router id 10.77.{n}.1;
log "{directory}/log" all;
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; interface "culvert-*"; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol static {{ ipv4; route 10.77.{n}.0/24 unreachable; }}
{session(4, 200)}{session(6, 100)}
""")
    host.start("bird", "-f", "-c", directory / "bird.conf", "-s", directory / "ctl", "-P", directory / "pid")
    return directory


@test
def route_based_tunnels(lab):
    """Two tunnels for 0.0.0.0/0 each; BGP inside them says which one a network is reached through, and moves it when one ends."""
    hosts = lab.pair()
    gateways, daemons = [], []
    for n, host in enumerate(hosts, 1):
        gateways.append(Culvert(host, tunnels(n)))
        for if_id in (4, 6):
            eventually(f"culvert-{if_id}", lambda: host.run("ip", "link", "show", f"culvert-{if_id}", ok=False).returncode == 0)
            host.address(f"10.255.{if_id}.{n}/24", f"culvert-{if_id}")
    ours, theirs = gateways
    a, b = hosts
    for name in ("four-all", "six-all"):
        ours.initiate(name)
    # Without a route, what the children are for is nobody's: a policy for everything does not swallow the host's links.
    a.ping("192.168.77.1", "192.168.77.2")
    for if_id in (4, 6):
        a.ping(f"10.255.{if_id}.1", f"10.255.{if_id}.2")
    for n, host in enumerate(hosts, 1):
        daemons.append(bird(lab, host, n))
    net = ("10.77.1.1", "10.77.2.1")

    def through(if_id):
        return lambda: all(
            f"dev culvert-{if_id}" in host.run("ip", "route", "show", f"10.77.{3 - n}.0/24").stdout for n, host in enumerate(hosts, 1)
        )

    def packets(child):
        """What the SAs of a child have carried out, by swanctl's own words."""
        said = sh("swanctl", "--list-sas", "--uri", f"unix://{ours.socket}").stdout.split(f"{child}:", 1)[-1]
        return int(re.search(r"out .*?(\d+) packets", said).group(1))

    def all_through(child):
        before = packets(child)
        a.ping(*net, count=10, interval=0.05)
        eventually(f"ten packets more in {child}", lambda: packets(child) >= before + 10, seconds=2)

    eventually("routes through the first tunnel", through(4), seconds=15)
    eventually("the way through it", lambda: a.ping(*net, count=1, ok=False) == 1)
    all_through("four-all")
    # The first tunnel ends at both sides; BGP finds out, and takes the second.
    ours.command("terminate", "--ike", "four")
    check(ours.rows("quick_mode.active_sas") == [1], "one tunnel is left")
    eventually("routes through the second tunnel", through(6), seconds=15)
    eventually("the way through it", lambda: a.ping(*net, count=1, ok=False) == 1)
    all_through("six-all")
    # And back.
    ours.initiate("four-all")
    eventually("routes through the first tunnel again", through(4), seconds=20)
    eventually("the way through it", lambda: a.ping(*net, count=1, ok=False) == 1)
    all_through("four-all")
    for gateway in gateways:
        accounted(gateway)
        gateway.stop()
    for if_id in (4, 6):
        check(a.run("ip", "link", "show", f"culvert-{if_id}", ok=False).returncode != 0, f"culvert-{if_id} is left behind")


def bird_ospf(lab, host, n):
    """OSPF for both families on both devices: multicast, from link-local addresses in IPv6."""
    directory = lab.dir / f"bird-{host.name}"
    directory.mkdir()
    def area(kind):
        devices = "".join(f"""
    interface "culvert-{if_id}" {{ type ptp; cost {cost}; hello 1; dead count 3; retransmit 2; tx length 1300; }};"""
                          for if_id, cost in ((4, 10), (6, 20)))
        net = {"v2": f"10.77.{n}.0/24", "v3": f"fd77:{n}::/64"}[kind]
        channel = {"v2": "ipv4", "v3": "ipv6"}[kind]
        return f"""
protocol static {{ {channel}; route {net} unreachable; }}
protocol ospf {kind} {{
  {channel} {{ import all; export where source = RTS_STATIC; }};
  area 0 {{{devices}
  }};
}}
protocol kernel {{ {channel} {{ import none; export where source ~ [RTS_OSPF, RTS_OSPF_IA, RTS_OSPF_EXT1, RTS_OSPF_EXT2]; }}; }}"""
    (directory / "bird.conf").write_text(f"""
router id 10.77.{n}.1;
log "{directory}/log" all;
protocol device {{ scan time 1; }}
{area("v2")}
{area("v3")}
""")
    host.start("bird", "-f", "-c", directory / "bird.conf", "-s", directory / "ctl", "-P", directory / "pid")
    return directory


@test
def route_based_ospf(lab):
    """A routing daemon that speaks on the devices themselves: packets in them bring the tunnels up, the cheaper one carries the traffic, and when
    it is cut the other one does."""
    hosts = lab.pair()
    gateways = []
    for n, host in enumerate(hosts, 1):
        gateways.append(Culvert(host, tunnels(n, "0.0.0.0/0, ::/0", "trap")))
        for if_id in (4, 6):
            eventually(f"culvert-{if_id}", lambda: host.run("ip", "link", "show", f"culvert-{if_id}", ok=False).returncode == 0)
            host.address(f"10.255.{if_id}.{n}/30", f"culvert-{if_id}")
    ours = gateways[0]
    a, b = hosts
    directories = [bird_ospf(lab, host, n) for n, host in enumerate(hosts, 1)]

    def through(if_id):
        return lambda: all(
            f"dev culvert-{if_id}" in host.run("ip", *family, "route", "show", net.format(3 - n)).stdout
            for n, host in enumerate(hosts, 1) for family, net in ((("-4",), "10.77.{}.0/24"), (("-6",), "fd77:{}::/64"))
        )

    def carried(if_id):
        return a.counter(f"culvert-{if_id}", "tx_packets")

    def works(if_id):
        eventually(f"routes through culvert-{if_id}", through(if_id), seconds=20)
        before = carried(if_id)
        a.ping("10.77.1.1", "10.77.2.1", count=10, interval=0.05)
        a.ping("fd77:1::1", "fd77:2::1", count=10, interval=0.05)
        check(carried(if_id) >= before + 20, f"culvert-{if_id} carried {carried(if_id) - before} packets")

    works(4)
    said = a.run("birdc", "-s", directories[0] / "ctl", "show", "ospf", "neighbors").stdout
    check(said.count("Full") == 4, f"two neighbours of each family: {said}")
    # The first tunnel is cut: its hellos stay away, and routing finds the second.
    for host in hosts:
        host.run("ip", "link", "set", "culvert-4", "down")
    works(6)
    for gateway in gateways:
        accounted(gateway)


@test
def proxied_neighbours(lab):
    """A host on the LAN asks for addresses of its own prefix that are behind a tunnel; the gateway has the kernel answer."""
    client, left, right, server = lab.chain()
    for host in (left, right):
        host.run("sysctl", "-qw", "net.ipv4.conf.all.forwarding=1", "net.ipv6.conf.all.forwarding=1")
    virtual = ("10.77.1.200", "fd77:1::200")
    for address, length in zip(virtual, (32, 128)):
        right.address(f"{address}/{length}")

    def children(n):
        names = (("net4", "10.77.1.0/24", f"{virtual[0]}/32"), ("net6", "fd77:1::/64", f"{virtual[1]}/128"))
        ends = [(name, *(ts if n == 1 else ts[::-1])) for name, *ts in names]
        return "".join(f"""
      {name} {{
        local_ts = {local}
        remote_ts = {remote}
        esp_proposals = aes128gcm16-x25519
        start_action = none
      }}""" for name, local, remote in ends)

    ports = PORTS.format(workers=1)
    ours, theirs = (Culvert(host, site(n, 3 - n, children=children(n)), ports) for host, n in ((left, 1), (right, 2)))
    check(client.ping("10.77.1.10", virtual[0], count=1, ok=False) == 0, "answered before there is a tunnel")
    for child in ("net4", "net6"):
        ours.initiate(child)
    shown = lambda: left.run("ip", "neigh", "show", "proxy").stdout + left.run("ip", "-6", "neigh", "show", "proxy").stdout
    eventually("two proxied addresses", lambda: all(f"{address} dev lan0" in shown() for address in virtual), seconds=3)
    client.run("ip", "neigh", "flush", "dev", "eth0")
    client.ping("10.77.1.10", virtual[0])
    client.ping("fd77:1::10", virtual[1])
    station = left.run("cat", "/sys/class/net/lan0/address").stdout.strip()
    check(station in client.run("ip", "neigh", "show", virtual[0]).stdout, "the answer came from somebody else")
    ours.command("terminate", "--ike", "site")
    eventually("nobody to be proxied", lambda: not shown().strip(), seconds=3)
    # What a gateway that was killed had asked for is not asked for by the next, and what somebody else has asked for stays.
    ours.initiate("net4")
    eventually("a proxied address", lambda: virtual[0] in shown(), seconds=3)
    left.run("ip", "neigh", "add", "proxy", "10.77.1.201", "dev", "lan0")
    ours.stop(signal.SIGKILL)
    check(virtual[0] in shown(), "the kernel forgot by itself")
    ours.start()
    check(virtual[0] not in shown() and "10.77.1.201" in shown(), f"after a restart {shown()}")
    accounted(ours)


@test
def delivered_to_the_host(lab):
    """`deliver = host`: what the tunnel brings for others passes netfilter and the host's routes."""
    client, left, right, server = lab.chain()
    ports = PORTS.format(workers=1)
    child = lambda n: f"""
      net {{
        local_ts = 10.77.{n}.0/24
        remote_ts = 10.77.{3 - n}.0/24
        esp_proposals = aes128gcm16-x25519
        start_action = trap
      }}"""
    deliver = """
  filters {
    net {
      connection = site
      child = net
      deliver = host
    }
  }
"""
    right.run("sysctl", "-qw", "net.ipv4.conf.all.forwarding=1")
    Culvert(left, site(1, 2, children=child(1)), ports)
    theirs = Culvert(right, site(2, 1, children=child(2)), ports + deliver)
    client.ping("10.77.1.10", "10.77.2.10")
    # The host's own rule has the last word.
    right.run("nft", "add", "table", "inet", "own")
    right.run("nft", "add", "chain", "inet", "own", "forward", "{ type filter hook forward priority 0; }")
    right.run("nft", "add", "rule", "inet", "own", "forward", "icmp", "type", "echo-request", "counter", "drop")
    check(client.ping("10.77.1.10", "10.77.2.10", ok=False) == 0, "netfilter did not see it")
    said = right.run("nft", "list", "table", "inet", "own").stdout
    check("packets 3" in said, f"the host's rule counted: {said}")
    accounted(theirs)
