"""IKEv1 as old equipment speaks it, opposite strongSwan in both roles: weak suites, fragments, IPv6 and what else has no file
of its own in the scenarios."""

from lab import Charon, Culvert, check, eventually
from pki import Pki

TESTS = {}

FIGURES = ("main_mode.ike_main_mode", "main_mode.ike_quick_mode", "main_mode.negotiation_failures",
           "main_mode.authentication_failures", "quick_mode.active_sas")


def conf(side, ike="aes128-sha256-modp2048", esp="aes128-sha256-modp2048", connection="", local="", remote="", child="",
         secrets="", auth="psk", v6=False):
    """One end of a tunnel between 10.77.1.0/24 and 10.77.2.0/24; `side` is a (the initiator) or b."""
    own, other = (1, 2) if side == "a" else (2, 1)
    peer = "b" if side == "a" else "a"
    wire = "fd77::{}" if v6 else "192.168.77.{}"
    return f"""
connections {{
  gw {{
    version = 1
    local_addrs = {wire.format(own)}
    remote_addrs = {wire.format(other)}
    proposals = {ike}
    rekey_time = 0
    {connection}
    local {{
      auth = {auth}
      id = {side}.interop.test
      {local}
    }}
    remote {{
      auth = {auth}
      id = {peer}.interop.test
      {remote}
    }}
    children {{
      net {{
        local_ts = 10.77.{own}.0/24
        remote_ts = 10.77.{other}.0/24
        esp_proposals = {esp}
        rekey_time = 0
        {child}
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    id-1 = a.interop.test
    id-2 = b.interop.test
    secret = interop-psk-0123456789
  }}
  {secrets}
}}
"""


class Ends:
    """Culvert in its role and strongSwan at the other end."""

    def __init__(self, lab, role, gateway="", **more):
        self.hosts = dict(zip("ab", lab.pair()))
        self.role = role
        own, other = ("a", "b") if role == "initiator" else ("b", "a")
        make, extra = more.pop("conf", conf), more.pop("extra", "")
        theirs = more.pop("theirs", {})
        self.ours = Culvert(self.hosts[own], make(own, **more), gateway)
        self.peer = Charon(self.hosts[other], make(other, **{**more, **theirs}), extra)
        self.here = self.hosts[own]
        self.net = ("10.77.1.1", "10.77.2.1") if own == "a" else ("10.77.2.1", "10.77.1.1")

    def initiate(self, ok=True):
        if self.role == "initiator":
            done = self.ours.initiate(ok=False)
        else:
            done = self.peer.swanctl("--initiate", "--child", "net", "--timeout", 10, ok=False)
        up = done.returncode == 0
        check(up == ok, f"up: {up}; {done.stdout[-300:]} {done.stderr[-300:]} {self.ours.tail()}")

    def works(self):
        """Comes up with nothing wrong, carries traffic, ends."""
        self.initiate()
        eventually("the children", lambda: self.ours.rows("quick_mode.active_sas") == [1], seconds=3)
        found = dict(zip(FIGURES, self.ours.rows(*FIGURES)))
        check(list(found.values()) == [1, 1, 0, 0, 1], f"{found}")
        self.here.ping(*self.net, size=500)
        moved = ("quick_mode.confidential_bytes_sent", "quick_mode.confidential_bytes_received")
        eventually("three pings of 528 bytes", lambda: self.ours.rows(*moved) == [3 * 528] * 2, seconds=2)

    def ends(self):
        self.ours.command("terminate", "--ike", "gw")
        # Of a first message in fragments strongSwan keeps an entry of its own, without a name.
        eventually("strongSwan's SA to go", lambda: "gw:" not in self.peer.swanctl("--list-sas").stdout)
        check(self.ours.rows("quick_mode.active_sas", "quick_mode.key_deletions") == [0, 1], "one pair deleted")


def both_roles(function):
    for role in ("initiator", "responder"):
        def run(lab, role=role):
            function(lab, role)

        TESTS[f"{function.__name__}_{role}"] = run
    return function


def test(function):
    TESTS[function.__name__] = function
    return function


LEGACY = "  legacy = yes\n"


def weak(lab, role, ike, esp):
    ends = Ends(lab, role, LEGACY, ike=ike, esp=esp)
    ends.works()
    said = ends.ours.log.read_text()
    check("(weak)" in said, "the log names what is weak")
    for view, name in (("main-mode-sas", ike), ("quick-mode-sas", esp)):
        shown = ends.ours.command("show", view).stdout
        check("3DES_CBC (weak)" in shown and ("md5" not in name or "MD5_96 (weak)" in shown), f"{view}: {shown}")
    ends.ends()


@both_roles
def ikev1_3des_md5_modp1024(lab, role):
    """3DES, HMAC-MD5 and group 2 in both phases."""
    weak(lab, role, "3des-md5-modp1024", "3des-md5-modp1024")


@both_roles
def ikev1_3des_sha1_modp1536(lab, role):
    """3DES with SHA-1 and group 5, as most old equipment has it."""
    weak(lab, role, "3des-sha1-modp1536", "3des-sha1-modp1536")


@both_roles
def ikev1_over_ipv6(lab, role):
    """Main mode between IPv6 addresses, with IPv4 inside."""
    ends = Ends(lab, role, v6=True)
    ends.works()
    ends.ends()


# --- fragments ----------------------------------------------------------------------------------------------------


def in_fragments(lab, role, size):
    """Certificates of 4 KB and an authority between: main mode in fragments both ways."""
    pki = Pki(lab.dir, "rsa")
    pki.issue("sub", "--ca", "--pathlen", 0, sans=[])
    fat = [f"a-very-long-subject-alternative-name-number-{n}.interop.test" for n in range(60)]
    for name in ("a", "b"):
        pki.issue(name, ca="sub", sans=[f"{name}.interop.test", *fat], unit="chain")
    for name in ("A", "B"):
        for folder in (lab.dir / f"charon-{name}" / "swanctl", lab.dir / f"culvert-{name}"):
            pki.provide(folder, name.lower(), below=("sub",))

    def certified(side, **more):
        return conf(side, auth="pubkey", local=f"certs = rsa-{side}.crt", **more)

    # So many proposals make a first message that is longer than a fragment, too.
    many = [f"aes{bits}-{prf}-{group}" for group in ("modp2048", "modp3072", "ecp256", "ecp384")
            for bits in (128, 192, 256) for prf in ("sha256", "sha384", "sha512")]
    ends = Ends(lab, role, f"  ike {{\n    fragment_size = {size}\n  }}\n", conf=certified,
                ike=",".join(many), connection="fragmentation = force", extra=f"fragment_size = {size}")
    ends.works()
    said = ends.peer.text()
    for what in ("splitting IKE message", "received fragment #"):
        check(what in said, f"strongSwan does not say: {what}")
    # The first message, whoever sends it, was too long for one piece already.
    first = "splitting IKE message" if role == "responder" else "received fragment #"
    lines = said.splitlines()
    begun = next(n for n, line in enumerate(lines) if "ID_PROT" in line)
    check(any(first in line for line in lines[: begun + 2]), f"the first message came whole: {lines[:begun + 2][-4:]}")
    ends.ends()


@both_roles
def ikev1_fragments(lab, role):
    in_fragments(lab, role, 576)


# --- aggressive mode ----------------------------------------------------------------------------------------------

GUESS = "  aggressive_psk_for_anyone_to_guess = yes\n"
CHARON_GUESS = "i_dont_care_about_security_and_use_aggressive_mode_psk = yes"


@both_roles
def ikev1_aggressive_psk(lab, role):
    ends = Ends(lab, role, GUESS, connection="aggressive = yes", extra=CHARON_GUESS)
    ends.works()
    check("AGGRESSIVE" in ends.peer.text(), "that was no aggressive mode")
    ends.ends()


def certificates(lab, kind="rsa"):
    """One certificate for each side, where either of the two looks for it."""
    pki = Pki(lab.dir, kind)
    for name in ("a", "b"):
        pki.issue(name)
    for name in ("A", "B"):
        for folder in (lab.dir / f"charon-{name}" / "swanctl", lab.dir / f"culvert-{name}"):
            pki.provide(folder, name.lower())


@both_roles
def ikev1_aggressive_rsa(lab, role):
    certificates(lab)

    def certified(side, **more):
        return conf(side, auth="pubkey", local=f"certs = rsa-{side}.crt", **more)

    ends = Ends(lab, role, conf=certified, connection="aggressive = yes")
    ends.works()
    check("AGGRESSIVE" in ends.peer.text(), "that was no aggressive mode")
    ends.ends()


@test
def ikev1_aggressive_needs_its_switch(lab):
    """Without the gateway's word strongSwan's aggressive mode with a preshared key is refused."""
    ends = Ends(lab, "responder", connection="aggressive = yes", extra=CHARON_GUESS)
    ends.initiate(ok=False)
    check(ends.ours.rows(*FIGURES)[:3] == [0, 0, 1], f"{ends.ours.rows(*FIGURES)}")
    check("is not answered without gateway.aggressive_psk_for_anyone_to_guess" in ends.ours.log.read_text(), "it is said")
