"""IKEv1 opposite a peer written apart (v1_peer.py): the commit bit and RESPONDER-LIFETIME, which strongSwan 5.9.8 never sends.

What strongSwan does with them is here too: it takes no notice of either.
"""

import json
import sys
import time

import ikev1_modes
from lab import HERE, Culvert, check, eventually, stop

TESTS = {}


def against(lab, role, bit, told, child="", connection=""):
    """Runs Culvert in `role` opposite the peer, with pings from Culvert's side; returns what the peer saw."""
    hosts = dict(zip("ab", lab.pair()))
    own, other = ("a", "b") if role == "initiator" else ("b", "a")
    address = {"a": "192.168.77.1", "b": "192.168.77.2"}
    ours = Culvert(hosts[own], ikev1_modes.conf(own, esp="aes128-sha256", child=child, connection=connection))
    said = lab.dir / "peer"

    def start():
        role_of_peer = "responder" if role == "initiator" else "initiator"
        return hosts[other].start(sys.executable, HERE / "v1_peer.py", role_of_peer, address[other], address[own], bit, told, log=said)

    peer = start()
    eventually("the peer", lambda: "ready" in said.read_text(), seconds=5)
    net = ("10.77.1.1", "10.77.2.1") if own == "a" else ("10.77.2.1", "10.77.1.1")
    pings = hosts[own].start("ping", "-i", "0.1", "-I", *net)
    if role == "initiator":
        ours.initiate(ok=bit != "phase1")
    try:
        eventually("the peer's end", lambda: peer.poll() is not None, seconds=30)
    finally:
        stop(pings)
    lines = said.read_text().splitlines()
    check(peer.returncode == 0, f"the peer says: {lines[-4:]}; {ours.tail()}")
    return json.loads(lines[-1]), ours


def commit(role, bit, told):
    def run(lab):
        seen, ours = against(lab, role, bit, told)
        check(seen["before"] == 0, f"ESP before CONNECTED: {seen}")
        check(seen["after"] >= 10, f"no ESP after CONNECTED: {seen}")
        if told == "never":
            check(9 < seen["waited"] < 11.5, f"it waits ten seconds: {seen}")
        check(ours.rows("main_mode.negotiation_failures", "main_mode.invalid_packets_received") == [0, 0], "nothing was wrong")

    TESTS[f"ikev1_commit_{bit}_{told}_{role}"] = run


# As initiator all three ways to say it, as responder both messages that can have the bit; and a peer that never says it.
for told in ("quick", "same", "other"):
    commit("initiator", "second", told)
commit("responder", "first", "same")
commit("responder", "third", "quick")
commit("responder", "first", "never")


def responder_lifetime_is_taken_over(lab):
    """The peer as responder says eight seconds: we renew the SA before they are over, although we would have taken an hour."""
    seen, ours = against(lab, "initiator", "none", "never", child="rekey_time = 50m\n life_time = 1h\n rand_time = 0")
    check(seen["before"] >= 10, f"without the bit nothing waits: {seen}")
    check(seen["renewed"] is not None, f"{seen}")


def responder_lifetime_is_said(lab):
    """The peer as initiator offers an hour; ours are 600 s, and RFC 2407 §4.6.3.1 says how that looks."""
    seen, _ = against(lab, "responder", "none", "never", child="life_time = 600\n rekey_time = 500\n rand_time = 0")
    check(seen["lifetime"] == [1, 600], f"{seen}")


def phase_1_lifetime_is_taken_over(lab):
    """Beside the HASH of the sixth message: the ISAKMP SA is renewed before the twelve seconds are over, not after the hour that is ours."""
    seen, _ = against(lab, "initiator", "phase1", "never", connection="reauth_time = 1h\n rand_time = 0")
    check(seen["renewed"] is not None and 9.5 < seen["renewed"] < 12, f"{seen}")


def phase_1_lifetime_is_said(lab):
    """The peer offers an hour for the ISAKMP SA; ours lasts eleven minutes."""
    seen, _ = against(lab, "responder", "none", "never", connection="reauth_time = 10m\n over_time = 1m\n rand_time = 0")
    check(seen["phase1"] == [[1, 660]], f"{seen}")


TESTS["ikev1_phase1_lifetime_initiator"] = phase_1_lifetime_is_taken_over
TESTS["ikev1_phase1_lifetime_responder"] = phase_1_lifetime_is_said
TESTS["ikev1_responder_lifetime_initiator"] = responder_lifetime_is_taken_over
TESTS["ikev1_responder_lifetime_responder"] = responder_lifetime_is_said


def responder_lifetime_strongswan(lab):
    """strongSwan offers an hour and hears of our 600 s: it says so in its log, and goes on with its own."""
    ends = ikev1_modes.Ends(lab, "responder", child="life_time = 600\n rekey_time = 500\n rand_time = 0",
                            theirs={"child": "life_time = 1h\n rekey_time = 50m\n rand_time = 0"})
    ends.initiate()
    check("N((24576))" in ends.peer.text(), ends.peer.text()[-600:])
    ends.here.ping(*ends.net)


TESTS["ikev1_responder_lifetime_strongswan"] = responder_lifetime_strongswan
