"""Two sites behind a gateway each, both Culvert: client, gateway, gateway, server."""

from lab import Culvert


def site(n, other, extra="", suites="aes128gcm16-x25519", children=None):
    """One of two gateways with networks behind them."""
    children = children or f"""
      net4 {{
        local_ts = 10.77.{n}.0/24
        remote_ts = 10.77.{other}.0/24
        esp_proposals = {suites}
        start_action = trap
      }}
      net6 {{
        local_ts = fd77:{n}::/64
        remote_ts = fd77:{other}::/64
        esp_proposals = {suites}
        start_action = trap
      }}
"""
    return f"""
connections {{
  site {{
    version = 2
    local_addrs = 192.168.77.{n}
    remote_addrs = 192.168.77.{other}
    proposals = aes128gcm16-prfsha256-x25519
    {extra}
    local {{
      auth = psk
      id = gateway-{n}
    }}
    remote {{
      auth = psk
      id = gateway-{other}
    }}
    children {{{children}    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = a-secret-of-the-two-sites
  }}
}}
"""


PORTS = """
  workers = {workers}
  ports {{
    wan {{
      interface = wan0
      mode = copy
    }}
    lan {{
      interface = lan0
      mode = copy
    }}
  }}
"""


def four_hosts(lab, extra="", workers=2, **kwargs):
    client, left, right, server = lab.chain(queues=workers)
    gateways = [
        Culvert(host, site(n, 3 - n, extra, **kwargs), PORTS.format(workers=workers)) for host, n in ((left, 1), (right, 2))
    ]
    return client, left, right, server, gateways


def routed(lab):
    """left - router - right; the router's device towards the right shows what goes over the wire."""
    left, router, right = (lab.host(name) for name in "LMR")
    lab.wire(left, "wan0", router, "left0")
    lab.wire(router, "right0", right, "wan0")
    for family in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        router.run("sysctl", "-qw", f"net.{family}=1")
    for host, far, net, other, device, end in ((left, router, 77, 78, "left0", 1), (right, router, 78, 77, "right0", 2)):
        host.address(f"192.168.{net}.{end}/24", "wan0")
        host.address(f"fd{net}::{end}/64", "wan0")
        far.address(f"192.168.{net}.254/24", device)
        far.address(f"fd{net}::254/64", device)
        host.route(f"192.168.{other}.0/24", "via", f"192.168.{net}.254")
        host.route(f"fd{other}::/64", "via", f"fd{net}::254")
    return left, router, right


def through_a_router(lab, queues=1):
    """client - left - router - right - server; the router's devices show what goes between the gateways."""
    client, left, router, right, server = (lab.host(name) for name in "CLMRS")
    lab.wire(client, "eth0", left, "lan0", queues)
    lab.wire(left, "wan0", router, "left0", queues)
    lab.wire(router, "right0", right, "wan0", queues)
    lab.wire(right, "lan0", server, "eth0", queues)
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    router.address("192.168.77.2/24", "left0")
    router.address("192.168.78.1/24", "right0")
    left.address("192.168.77.1/24", "wan0")
    right.address("192.168.78.2/24", "wan0")
    left.route("192.168.78.0/24", "via", "192.168.77.2")
    right.route("192.168.77.0/24", "via", "192.168.78.1")
    for gateway, host, n in ((left, client, 1), (right, server, 2)):
        gateway.address(f"10.77.{n}.254/24", "lan0")
        host.address(f"10.77.{n}.10/24", "eth0")
        host.route("default", "via", f"10.77.{n}.254")
    return client, left, router, right, server
