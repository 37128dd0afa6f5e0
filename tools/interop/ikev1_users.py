"""Road warriors of IKEv1 opposite strongSwan in both roles: XAUTH behind each method of phase 1, hybrid authentication, and Mode
Config by pull and by push."""

from ikev1_modes import CHARON_GUESS, FIGURES, GUESS, Ends, certificates
from lab import check, eventually

TESTS = {}


def both_roles(function):
    for role in ("initiator", "responder"):
        def run(lab, role=role):
            function(lab, role)

        TESTS[f"{function.__name__}_{role}"] = run
    return function


def road_warrior(side, password="carol-password", auth=("psk", "psk"), aggressive=False, pull=True, **_):
    """a is carol, who gets an address of b's pool. `auth` is how a and b prove who they are in phase 1; `xauth` of a alone is hybrid."""
    own, other = (1, 2) if side == "a" else (2, 1)
    peer = "b" if side == "a" else "a"
    client = side == "a"
    name = "xauth_id = carol" if client else ""

    def first(host):
        how = auth[host == "b"]
        certs = f"certs = rsa-{host}.crt" if how == "pubkey" and host == side else ""
        return f"auth = {how}\n      id = {host}.interop.test\n      {certs}{name if how == 'xauth' and client else ''}"

    second = "" if "xauth" in auth else f"{'local-2' if client else 'remote-2'} {{\n      auth = xauth\n      {name}\n    }}"
    return f"""
connections {{
  gw {{
    version = 1
    local_addrs = 192.168.77.{own}
    remote_addrs = 192.168.77.{other}
    proposals = aes128-sha256-modp2048
    rekey_time = 0
    {"aggressive = yes" if aggressive else ""}
    {"" if pull else "pull = no"}
    {"vips = 0.0.0.0" if client else "pools = rw"}
    local-1 {{
      {first(side)}
    }}
    remote-1 {{
      {first(peer)}
    }}
    {second}
    children {{
      net {{
        {"remote_ts" if client else "local_ts"} = 10.77.2.0/24
        esp_proposals = aes128-sha256-modp2048
        rekey_time = 0
      }}
    }}
  }}
}}
{"" if client else "pools { rw { addrs = 10.9.0.0/24; dns = 10.77.2.53 } }".replace("; ", chr(10))}
secrets {{
  ike-1 {{
    id-1 = a.interop.test
    id-2 = b.interop.test
    secret = interop-psk-0123456789
  }}
  xauth-1 {{
    id = carol
    secret = {password}
  }}
}}
"""


def has_address(ends, name="10.9.0.1"):
    """Whether a, the client, has the virtual address among its own."""
    return name in ends.hosts["a"].run("ip", "-4", "addr").stdout


def carried(ends):
    eventually("the children", lambda: ends.ours.rows("quick_mode.active_sas") == [1], seconds=3)
    found = dict(zip(FIGURES, ends.ours.rows(*FIGURES)))
    check(list(found.values()) == [1, 1, 0, 0, 1], f"{found}")
    eventually("the virtual address", lambda: has_address(ends), seconds=3)
    ends.hosts["a"].ping("10.9.0.1", "10.77.2.1", size=500)
    moved = ("quick_mode.confidential_bytes_sent", "quick_mode.confidential_bytes_received")
    eventually("three pings of 528 bytes", lambda: ends.ours.rows(*moved) == [3 * 528] * 2, seconds=2)
    ends.ours.command("terminate", "--ike", "gw")
    eventually("strongSwan's SA to go", lambda: "gw:" not in ends.peer.swanctl("--list-sas").stdout)
    eventually("the virtual address to go", lambda: not has_address(ends), seconds=3)


@both_roles
def ikev1_xauth_psk(lab, role):
    """Preshared key, XAUTH and a virtual address by Mode Config; again, the same address."""
    ends = Ends(lab, role, conf=road_warrior)
    ends.initiate()
    check("XAuth authentication of" in ends.peer.text(), "strongSwan knows of no XAuth")
    carried(ends)
    ends.initiate()
    eventually("the same address", lambda: has_address(ends), seconds=3)


@both_roles
def ikev1_xauth_rsa(lab, role):
    """The same behind certificates."""
    certificates(lab)
    ends = Ends(lab, role, conf=road_warrior, auth=("pubkey", "pubkey"))
    ends.initiate()
    carried(ends)


@both_roles
def ikev1_xauth_aggressive(lab, role):
    """The same in aggressive mode with a preshared key, as most old clients do it."""
    ends = Ends(lab, role, GUESS, conf=road_warrior, aggressive=True, extra=CHARON_GUESS)
    ends.initiate()
    check("AGGRESSIVE" in ends.peer.text(), "that was no aggressive mode")
    carried(ends)


@both_roles
def ikev1_hybrid(lab, role):
    """The gateway has a certificate, carol a password alone."""
    certificates(lab)
    ends = Ends(lab, role, conf=road_warrior, auth=("xauth", "pubkey"))
    ends.initiate()
    carried(ends)


@both_roles
def ikev1_hybrid_aggressive(lab, role):
    """The same in aggressive mode."""
    certificates(lab)
    ends = Ends(lab, role, conf=road_warrior, auth=("xauth", "pubkey"), aggressive=True)
    ends.initiate()
    check("AGGRESSIVE" in ends.peer.text(), "that was no aggressive mode")
    carried(ends)


@both_roles
def ikev1_hybrid_wrong_password(lab, role):
    """No SA comes up, and who has no password is nobody's peer."""
    certificates(lab)
    ends = Ends(lab, role, conf=road_warrior, auth=("xauth", "pubkey"), theirs={"password": "another"})
    ends.initiate(ok=False)
    found = ends.ours.rows("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.ike_quick_mode")
    check(found == [1, 1, 0], f"{found}")
    eventually("both SAs to go", lambda: "gw:" not in ends.peer.swanctl("--list-sas").stdout)
    check(not has_address(ends), "an address is there")


@both_roles
def ikev1_push(lab, role):
    """Mode Config in push mode: the gateway tells the address unasked."""
    ends = Ends(lab, role, conf=road_warrior, pull=False)
    ends.initiate()
    carried(ends)
    ends.initiate()
    eventually("the same address", lambda: has_address(ends), seconds=3)


@both_roles
def ikev1_xauth_wrong_password(lab, role):
    """The SA goes, an authentication failure is counted, and nobody gets an address."""
    ends = Ends(lab, role, conf=road_warrior, theirs={"password": "another"})
    ends.initiate(ok=False)
    found = ends.ours.rows("main_mode.authentication_failures", "main_mode.negotiation_failures", "main_mode.ike_quick_mode")
    check(found == [1, 1, 0], f"{found}")
    eventually("both SAs to go", lambda: "gw:" not in ends.peer.swanctl("--list-sas").stdout)
    check(not has_address(ends), "an address is there")
