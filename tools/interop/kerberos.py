"""Main mode by Kerberos between two gateways, with a KDC of MIT Kerberos in a namespace of its own."""

import os
import shutil
import signal
import subprocess
import time

import gss_messages
from lab import ROOT, Culvert, check, eventually, sh, stop

TESTS = {}
REALM, OTHER = "CULVERT.TEST", "OTHER.TEST"
# The build with the feature stands beside the other (tools/test makes it).
BINARY = ROOT / "target" / "release" / "culvert-kerberos"
TOOLS = ["krb5kdc", "kdb5_util", "kadmin.local"]


def tests():
    """The tests, or none with a line that says why; in CI they may not be left out."""
    path = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    missing += [] if BINARY.exists() else [f"{BINARY.relative_to(ROOT)} (a build with --features kerberos)"]
    if missing and not os.environ.get("CI"):
        return {"kerberos": lambda lab: print(f"    left out: not there: {', '.join(missing)}")}
    return TESTS


def test(function):
    TESTS[function.__name__] = function
    return function


def principal(side, realm=REALM):
    return f"host/{side.lower()}.culvert.test@{realm}"


class Kdc:
    """A KDC for two realms, joined to each gateway by a wire of its own."""

    def __init__(self, lab, gateways):
        self.lab, self.host, self.dir = lab, lab.host("K"), lab.dir / "kdc"
        self.dir.mkdir()
        for n, (name, gateway) in enumerate(gateways.items(), 1):
            lab.wire(self.host, f"k{n}", gateway, "kdc0")
            self.host.address(f"10.99.{n}.1/24", f"k{n}")
            gateway.address(f"10.99.{n}.2/24", "kdc0")
            gateway.environment = {
                "KRB5_CONFIG": str(self.config(name, n, REALM)),
                "KRB5_KTNAME": str(self.dir / f"{name}.keytab"),
                "KRB5_CLIENT_KTNAME": str(self.dir / f"{name}.keytab"),
                "KRB5CCNAME": "MEMORY:",
            }
        realms = "".join(
            f"  {realm} = {{\n    database_name = {self.dir}/{realm}\n    key_stash_file = {self.dir}/{realm}.stash\n"
            f"    acl_file = {self.dir}/acl\n  }}\n" for realm in (REALM, OTHER)
        )
        (self.dir / "kdc.conf").write_text(f"[kdcdefaults]\n  kdc_ports = 88\n  kdc_tcp_ports = 88\n[realms]\n{realms}")
        self.environment = {"KRB5_CONFIG": str(self.config("kdc", 1, REALM)), "KRB5_KDC_PROFILE": str(self.dir / "kdc.conf")}
        for realm in (REALM, OTHER):
            self.run("kdb5_util", "-r", realm, "create", "-s", "-P", "master")
        self.admin(*(f"addprinc -randkey {principal(name)}" for name in gateways))
        for name in gateways:
            self.admin(f"ktadd -k {self.dir}/{name}.keytab {principal(name)}")
        self.start()

    def config(self, name, n, realm):
        path = self.dir / f"{name}.krb5.conf"
        realms = "".join(f"  {r} = {{\n    kdc = 10.99.{n}.1\n  }}\n" for r in (REALM, OTHER))
        path.write_text(
            f"[libdefaults]\n  default_realm = {realm}\n  dns_lookup_kdc = false\n  dns_lookup_realm = false\n  rdns = false\n"
            f"[realms]\n{realms}[domain_realm]\n  .culvert.test = {realm}\n"
        )
        return path

    def run(self, *args, **kwargs):
        environment = {**os.environ, **self.environment, "PATH": "/usr/sbin:/sbin:" + os.environ["PATH"]}
        return sh(*args, env=environment, **kwargs)

    def admin(self, *queries, realm=REALM):
        for query in queries:
            done = self.run("kadmin.local", "-r", realm, "-q", query)
            check("kadmin.local:" not in done.stderr.replace("kadmin.local: ", "kadmin.local:"), f"{query}: {done.stderr}")

    def start(self):
        args = ["-n", "-r", REALM, "-r", OTHER]
        self.process = self.host.start("/usr/sbin/krb5kdc", *args, log=self.dir / "log", env=self.environment)
        listening = lambda: ":88 " in self.host.run("ss", "-lnu").stdout  # noqa: E731
        eventually("the KDC", listening)


def conf(side, own=None, peer=None):
    """One end of a tunnel: `gw` by Kerberos, `plain` with a preshared key beside it."""
    n, m = (1, 2) if side == "A" else (2, 1)
    other = "B" if side == "A" else "A"
    common = f"""
    version = 1
    local_addrs = 192.168.77.{n}
    remote_addrs = 192.168.77.{m}
    proposals = aes128-sha256-modp2048
    rekey_time = 0
"""
    return f"""
connections {{
  gw {{{common}
    local {{
      auth = kerberos
      id = {own or principal(side)}
    }}
    remote {{
      auth = kerberos
      id = {peer or principal(other)}
    }}
    children {{
      net {{
        local_ts = 10.77.{n}.0/24
        remote_ts = 10.77.{m}.0/24
        esp_proposals = aes128-sha256
        rekey_time = 0
      }}
    }}
  }}
  plain {{{common}
    local {{
      auth = psk
      id = {side}.plain
    }}
    remote {{
      auth = psk
      id = {other}.plain
    }}
    children {{
      other {{
        local_ts = 10.78.{n}.0/24
        remote_ts = 10.78.{m}.0/24
        esp_proposals = aes128-sha256
        rekey_time = 0
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = interop-psk-0123456789
  }}
}}
"""


SETTINGS = """  ike {
    retransmit_timeout = 1
    retransmit_tries = 1
    kerberos_timeout = 4
  }
"""


class Ends:
    """The KDC and two gateways with the feature."""

    def __init__(self, lab):
        check(BINARY.exists(), f"{BINARY} is not there: cargo build --release --features kerberos")
        lab.binary = str(BINARY)
        self.a, self.b = lab.pair()
        self.kdc = Kdc(lab, {"A": self.a, "B": self.b})
        self.left = Culvert(self.a, conf("A"), SETTINGS)
        self.right = Culvert(self.b, conf("B"), SETTINGS)
        self.before = {self.left: [0] * 5, self.right: [0] * 5}

    def moved(self, gateway, expected, what):
        """The figures since the last look: main modes, negotiation failures, authentication failures in all, Kerberos, PSK."""
        found = None

        def moved():
            nonlocal found
            now = figures(gateway)
            found = [n - b for n, b in zip(now, self.before[gateway])]
            return found == expected
        try:
            eventually(what, moved, seconds=6)
        except Exception as error:
            raise type(error)(f"{what}: {found}, not {expected}") from error
        self.before[gateway] = figures(gateway)

    def restart(self, gateway, text):
        gateway.stop()
        gateway.write(text, SETTINGS)
        gateway.start()
        self.before[gateway] = [0] * 5


def figures(gateway):
    """Main modes, negotiation failures, authentication failures; of these by Kerberos and by preshared key."""
    stats = gateway.stats()
    methods = stats["labels"]["main_mode.authentication_failures"]["method"]
    rows = ("ike_main_mode", "negotiation_failures", "authentication_failures")
    return [stats["main_mode"][row] for row in rows] + [methods["kerberos"], methods["psk"]]


@test
def kerberos_both_ways(lab):
    """Tickets make an SA either way, with data; the messages are what the draft says, by a parser written apart."""
    ends = Ends(lab)
    capture, path = lab.capture(ends.b, "wan0", "udp")
    ends.left.initiate()
    ends.a.ping("10.77.1.1", "10.77.2.1")
    ends.left.command("terminate", "--ike", "gw")
    eventually("the end of the SA", lambda: ends.right.rows("quick_mode.active_sas") == [0])
    ends.right.initiate()
    ends.b.ping("10.77.2.1", "10.77.1.1", size=1000)
    for gateway in (ends.left, ends.right):
        ends.moved(gateway, [2, 0, 0, 0, 0], "two main modes")
    time.sleep(0.2)
    stop(capture)
    names = [principal("A"), principal("B")]
    said = gss_messages.check_capture(path, {("192.168.77.1", "192.168.77.2"): names, ("192.168.77.2", "192.168.77.1"): names[::-1]})
    print(f"    {said}")


@test
def kerberos_refusals(lab):
    """Whom the KDC, the keytab or the configuration does not know gets no SA; who finds out counts it, and who is told."""
    ends = Ends(lab)
    kdc, left, right = ends.kdc, ends.left, ends.right

    def refused(what, at_left, at_right):
        check(left.initiate(ok=False).returncode != 0, f"{what}: the SA came up")
        ends.moved(left, at_left, f"{what}, initiator")
        ends.moved(right, at_right, f"{what}, responder")

    nothing, counted = [0] * 5, [0, 1, 1, 1, 0]
    # Before anything is cached: our own principal has expired, so there is no ticket.
    kdc.admin(f"modprinc -expire \"2020-01-01 00:00:00 UTC\" {principal('A')}")
    refused("an expired principal", counted, [0, 0, 0, 0, 0])
    kdc.admin(f"modprinc -expire never {principal('A')}")
    # The peer's key has changed, and its keytab has not: it cannot read the ticket.
    shutil.copy(kdc.dir / "B.keytab", kdc.dir / "old.keytab")
    kdc.admin(f"ktadd -k {kdc.dir}/new.keytab {principal('B')}")
    refused("a ticket for another key", counted, counted)
    # With the new key it can.
    shutil.copy(kdc.dir / "new.keytab", kdc.dir / "B.keytab")
    left.initiate()
    ends.a.ping("10.77.1.1", "10.77.2.1")
    ends.moved(left, [1, 0, 0, 0, 0], "the new key, initiator")
    ends.moved(right, [1, 0, 0, 0, 0], "the new key, responder")
    # A realm that has no trust with the peer's.
    kdc.admin(f"addprinc -randkey {principal('A', OTHER)}", f"ktadd -k {kdc.dir}/A.keytab {principal('A', OTHER)}", realm=OTHER)
    ends.restart(left, conf("A", own=principal("A", OTHER)))
    refused("another realm", counted, nothing)
    # A principal of the right realm that the peer does not want.
    kdc.admin("addprinc -randkey host/c.culvert.test", f"ktadd -k {kdc.dir}/A.keytab host/c.culvert.test")
    ends.before[right] = figures(right)
    ends.restart(left, conf("A", own=f"host/c.culvert.test@{REALM}"))
    refused("another principal", counted, counted)
    # No key to fetch a ticket with.
    ends.a.environment["KRB5_CLIENT_KTNAME"] = str(kdc.dir / "none.keytab")
    ends.restart(left, conf("A"))
    refused("no ticket", counted, nothing)


@test
def kerberos_kdc_is_silent(lab):
    """A KDC that does not answer ends its negotiation in time, and no other waits for it."""
    ends = Ends(lab)
    for n, host in ((1, ends.a), (2, ends.b)):
        host.address(f"10.78.{n}.1/32")
    ends.kdc.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    waiting = subprocess.Popen(
        [ends.left.host.lab.binary, "initiate", "--child", "net", "--socket", str(ends.left.socket)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    lab.processes.append(waiting)
    time.sleep(0.3)
    ends.left.initiate("other")
    other = time.monotonic() - start
    check(waiting.poll() is None, "the other SA waited for the KDC, or the KDC was given no time")
    ends.a.ping("10.78.1.1", "10.78.2.1")
    # The library alone would ask again and again for 27 s.
    check(waiting.wait(timeout=12) != 0, "an SA without a ticket")
    took = time.monotonic() - start
    check(3.5 < took < 9, f"{took:.1f} s, with a deadline of 4 s")
    # Nobody was found out: the negotiation failed, no authentication did.
    ends.moved(ends.left, [1, 1, 0, 0, 0], "a silent KDC")
    ends.kdc.process.send_signal(signal.SIGCONT)
    eventually("the KDC's answer", lambda: ends.left.initiate(ok=False).returncode == 0, seconds=8)
    ends.a.ping("10.77.1.1", "10.77.2.1")
    print(f"    given up after {took:.1f} s, the other SA was up after {other:.1f} s")


@test
def kerberos_peer_written_apart(lab):
    """Another implementation of the draft, over the system's GSS-API, agrees on every octet, the HASHes too."""
    if sh("/usr/bin/python3", "-c", "import gssapi, cryptography", ok=False).returncode != 0:
        check(not os.environ.get("CI"), "python3-gssapi is missing (tools/interop/setup.sh installs it)")
        print("    left out: no python3-gssapi")
        return
    ends = Ends(lab)
    ends.left.stop()
    environment = {**os.environ, **ends.a.environment}

    def peer(*fault):
        program = ROOT / "tools" / "interop" / "gss_peer.py"
        arguments = ["192.168.77.1", "192.168.77.2", principal("A"), principal("B"), *fault]
        return ends.a.run("/usr/bin/python3", program, *arguments, ok=False, env=environment)

    done = peer()
    check(done.returncode == 0, f"{done.stdout} {done.stderr}")
    ends.moved(ends.right, [1, 0, 0, 0, 0], "a peer written apart")
    print(f"    {done.stdout.strip()}")
    for fault in ("name", "token"):
        check(peer(fault).returncode != 0, f"HASH_I without the {fault} was taken")
        ends.moved(ends.right, [0, 1, 1, 1, 0], f"HASH_I without the {fault}")
