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
